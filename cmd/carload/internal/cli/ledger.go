package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/sqliteledger"
)

// noLedger is the value of --ledger for no ledger.
const noLedger = "none"

func addLedger(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "ledger", "", "file that records what was sent (default: in the user's state directory; none for no ledger)")
}

func (a *app) ledgerPath(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	dir, err := a.env.stateDir()
	if err != nil {
		return "", usageError{error: fmt.Errorf("%w (--ledger)", err)}
	}
	return filepath.Join(dir, "ledger.db"), nil
}

// ledgerThere returns the path of an existing ledger.
func (a *app) ledgerThere(flag string) (string, error) {
	if flag == noLedger {
		return "", usagef("--ledger %s means that there is no ledger to read", noLedger)
	}
	path, err := a.ledgerPath(flag)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", withHint(usagef("there is no ledger at %q", path), "carload up creates one; --ledger names another")
	}
	return path, nil
}

// withSomeLedger opens or creates the ledger that the flag names, and calls f
// with it.
func (a *app) withSomeLedger(flag string, f func(uploader.Ledger) error) error {
	if flag == noLedger {
		return f(new(uploader.MemoryLedger))
	}
	path, err := a.ledgerPath(flag)
	if err != nil {
		return err
	}
	return a.openLedger(path, func(l *sqliteledger.Ledger) error { return f(l) })
}

// withLedger opens an existing ledger, and calls f with it.
func (a *app) withLedger(flag string, f func(*sqliteledger.Ledger) error) error {
	path, err := a.ledgerThere(flag)
	if err != nil {
		return err
	}
	return a.openLedger(path, f)
}

func (a *app) openLedger(path string, f func(*sqliteledger.Ledger) error) (err error) {
	l, err := sqliteledger.Open(a.life.soft, path, sqliteledger.Options{})
	switch {
	case errors.Is(err, uploader.ErrLedgerLocked):
		return withHint(err, "another carload is creating or repairing it, or an older carload has it open: wait for it, or use another ledger with --ledger FILE")
	case errors.Is(err, uploader.ErrLedgerDamaged):
		if is, errRead := sqliteledger.IsLedger(path); errRead == nil && !is {
			return notLedger(path)
		}
		return withHint(err, "carload ledger repair saves what it can read")
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return f(l)
}

func notLedger(path string) error {
	return withHint(usagef("%q is not a ledger", path), "name the ledger with --ledger; if this file was the ledger, move it away, and carload will ask the service what it has")
}

func (a *app) ledgerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Show the record of what was sent where",
		Example: `  carload ledger list
  carload ledger show ROOT
  carload ledger export > ledger.jsonl`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.ledgerListCommand(), a.ledgerShowCommand(), a.ledgerForgetCommand(), a.ledgerRepairCommand(),
		a.ledgerExportCommand(), a.ledgerImportCommand(), a.ledgerReportCommand())
	return cmd
}

type ledgerEvent struct {
	eventHeader
	Root          string    `json:"root"`
	Target        string    `json:"target"`
	MaxShardBytes int64     `json:"maxShardBytes"`
	Receipts      int       `json:"receipts"`
	Suspects      int       `json:"suspects"`
	Begun         time.Time `json:"begun"`
	Finished      time.Time `json:"finished,omitzero"`
}

func (a *app) ledgerListCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List uploads: CID, state, receipts, largest shard, time, target",
		Example: `  carload ledger list
  carload ledger list --json | jq -r 'select(.finished==null).root'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withLedger(path, func(l *sqliteledger.Ledger) error {
				uploads, err := l.Uploads(cmd.Context())
				rows := a.con.table("CID", "STATE", "RECEIPTS", "LARGEST SHARD", "BEGUN", "TARGET")
				defer rows.flush()
				for _, u := range uploads {
					a.con.event(ledgerEvent{header("ledger"), u.Root.String(), u.Target, u.MaxShardBytes, u.Receipts, u.Suspects, u.Begun, u.Finished})
					state := "unfinished"
					if !u.Finished.IsZero() {
						state = "verified"
					}
					if u.Suspects > 0 {
						state = fmt.Sprintf("%d blocks to send again", u.Suspects)
					}
					rows.row(textCell(u.Root.String()), textCell(state), countCell(u.Receipts), bytesCell(u.MaxShardBytes), timeCell(u.Begun), textCell(quotePath(u.Target)))
				}
				return err
			})
		},
	}
	addLedger(cmd, &path)
	return cmd
}

type receiptEvent struct {
	eventHeader
	Root    string `json:"root"`
	Target  string `json:"target"`
	Index   int    `json:"index"`
	Archive string `json:"archive"`
}

func (a *app) ledgerShowCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "show CID…",
		Short:   "List the receipts of uploads: number, CID of the shard, target",
		Example: `  carload ledger show ROOT`,
		RunE: func(cmd *cobra.Command, args []string) error {
			roots, err := parseCIDs(args)
			if err != nil {
				return err
			}
			return a.withLedger(path, func(l *sqliteledger.Ledger) error {
				for _, root := range roots {
					if err := a.ledgerShow(cmd.Context(), l, root.String()); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	addLedger(cmd, &path)
	return cmd
}

func (a *app) ledgerShow(ctx context.Context, l *sqliteledger.Ledger, root string) error {
	uploads, err := l.Uploads(ctx)
	if err != nil {
		return err
	}
	found := false
	for _, u := range uploads {
		if u.Root.String() != root {
			continue
		}
		found = true
		receipts, err := l.Receipts(ctx, u.UploadKey)
		if err != nil {
			return err
		}
		indexes := make([]int, 0, len(receipts))
		for i := range receipts {
			indexes = append(indexes, i)
		}
		slices.Sort(indexes)
		for _, i := range indexes {
			a.con.event(receiptEvent{header("receipt"), root, u.Target, i, receipts[i].String()})
			a.con.result(fmt.Sprintf("%d\t%s\t%s", i+1, receipts[i], quotePath(u.Target)))
		}
	}
	if !found {
		return fmt.Errorf("the ledger knows no upload of %s", root)
	}
	return nil
}

func (a *app) ledgerForgetCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "forget CID…",
		Short:   "Forget uploads; carload then asks the service what it has",
		Example: `  carload ledger forget ROOT`,
		RunE: func(cmd *cobra.Command, args []string) error {
			roots, err := parseCIDs(args)
			if err != nil {
				return err
			}
			return a.withLedger(path, func(l *sqliteledger.Ledger) error {
				for _, root := range roots {
					n, err := l.ForgetRoot(cmd.Context(), root)
					if err != nil {
						return err
					}
					if n == 0 {
						return fmt.Errorf("the ledger knows no upload of %s", root)
					}
					a.gone(goneEvent{eventHeader: header("forgotten"), Root: root.String()})
				}
				return nil
			})
		},
	}
	addLedger(cmd, &path)
	return cmd
}

type repairEvent struct {
	eventHeader
	Kept    int    `json:"kept"`
	Lost    int    `json:"lost"`
	Damaged string `json:"damaged"`
}

func (a *app) ledgerRepairCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "repair",
		Short:   "Create a new ledger from what can be read of a damaged one, and keep the old file",
		Example: `  carload ledger repair`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := a.ledgerThere(path)
			if err != nil {
				return err
			}
			if is, err := sqliteledger.IsLedger(file); err != nil {
				return err
			} else if !is {
				return notLedger(file)
			}
			report, err := sqliteledger.Repair(cmd.Context(), file)
			if err != nil {
				return err
			}
			a.con.event(repairEvent{header("repaired"), report.Kept, report.Lost, report.Old})
			a.con.result(fmt.Sprintf("%s\t%d kept\t%d lost", quotePath(file), report.Kept, report.Lost))
			a.con.say("the old ledger is now %s; carload asks the service for what was lost", quotePath(report.Old))
			return nil
		},
	}
	addLedger(cmd, &path)
	return cmd
}
