package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

// withTarget connects to the target that the flags name, and calls f with it.
func (a *app) withTarget(ctx context.Context, end endpointFlags, f func(*target) error) (err error) {
	t, err := a.connect(ctx, end)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	return f(t)
}

// withTargets connects to all targets that the flags name, and calls f with
// them.
func (a *app) withTargets(ctx context.Context, end endpointFlags, f func([]*target) error) (err error) {
	if len(end.to) < 2 {
		return a.withTarget(ctx, end, func(t *target) error { return f([]*target{t}) })
	}
	var targets []*target
	defer func() {
		for _, t := range targets {
			err = errors.Join(err, t.close())
		}
	}()
	for _, to := range end.to {
		t, err := a.connectTo(ctx, end, to)
		if err != nil {
			return err
		}
		for _, other := range targets {
			if other.String() == t.String() {
				return errors.Join(usagef("--to %s and --to %s are the same target", other.name, t.name), t.close())
			}
		}
		targets = append(targets, t)
	}
	return f(targets)
}

// withService is withTarget for a target with the pinning API.
func (a *app) withService(ctx context.Context, end endpointFlags, f func(*nftstorage.Target) error) error {
	return a.withTarget(ctx, end, func(t *target) error {
		if t.service == nil {
			return t.lacks("has no pinning API: carload up pins what it sends there, and carload rm removes the pin")
		}
		return f(t.service)
	})
}

type uploadEvent struct {
	eventHeader
	Root    string    `json:"root"`
	Name    string    `json:"name"`
	Bytes   int64     `json:"bytes"`
	Created time.Time `json:"created,omitzero"`
	State   string    `json:"state"`
	Parts   int       `json:"parts"`
}

func (a *app) listCommand() *cobra.Command {
	var end endpointFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the uploads at the service: CID, state, bytes, time, name",
		Example: `  carload list
  carload list --to home
  carload list --json | jq -r 'select(.state!="pinned").root'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withTarget(cmd.Context(), end, func(t *target) error {
				l, ok := t.Target.(uploader.Lister)
				if !ok {
					return t.lacks("can't list its uploads: look into the directory")
				}
				rows := a.con.table("CID", "STATE", "SIZE", "CREATED", "NAME")
				defer rows.flush()
				for u, err := range l.List(cmd.Context()) {
					if err != nil {
						return err
					}
					a.con.event(uploadEvent{header("upload"), u.Root.String(), u.Name, u.Bytes, u.Created, string(u.State), len(u.Parts)})
					rows.row(textCell(u.Root.String()), textCell(printable(string(u.State))), bytesCell(u.Bytes), timeCell(u.Created), textCell(quotePath(u.Name)))
				}
				return nil
			})
		},
	}
	end.add(cmd)
	return cmd
}

// goneEvent reports that something was removed: a root at the service
// ("deleted") or in the ledger ("forgotten"), a pin ("withdrawn") or a key
// ("revoked").
type goneEvent struct {
	eventHeader
	Root string `json:"root,omitempty"`
	ID   string `json:"id,omitempty"` // for things that have no root
}

// gone reports a goneEvent with its type and either a root or an ID.
func (a *app) gone(e goneEvent) {
	a.con.event(e)
	a.con.result(e.Root + quotePath(e.ID) + "\t" + e.Type)
}

func (a *app) rmCommand() *cobra.Command {
	var end endpointFlags
	cmd := &cobra.Command{
		Use:   "rm CID…",
		Short: "Delete uploads at the service",
		Long: `Delete uploads at the service. carload serve still returns their blocks until it
frees the space, within ten minutes unless --gc-interval says otherwise.`,
		Example: `  carload rm ROOT
  carload rm --endpoint https://api.example.org ROOT`,
		RunE: func(cmd *cobra.Command, args []string) error {
			roots, err := parseCIDs(args)
			if err != nil {
				return err
			}
			return a.withTarget(cmd.Context(), end, func(t *target) error {
				d, ok := t.Target.(uploader.Deleter)
				if !ok {
					return t.lacks("can't delete: remove the files of the shards yourself")
				}
				for _, root := range roots {
					if err := d.Delete(cmd.Context(), root); err != nil {
						return fmt.Errorf("%s: %w", root, err)
					}
					a.gone(goneEvent{eventHeader: header("deleted"), Root: root.String()})
				}
				return nil
			})
		},
	}
	end.add(cmd)
	return cmd
}

type pinEvent struct {
	eventHeader
	ID      string    `json:"id"`
	Cid     string    `json:"cid"`
	Name    string    `json:"name"`
	State   string    `json:"state"`
	Created time.Time `json:"created"`
}

func (a *app) pins() *table { return a.con.table("CID", "STATE", "ID", "NAME") }

func (a *app) pinRow(rows *table, p nftstorage.Pin) {
	a.con.event(pinEvent{header("pin"), p.ID, p.Cid.String(), p.Name, string(p.State), p.Created})
	rows.row(textCell(p.Cid.String()), textCell(printable(string(p.State))), textCell(quotePath(p.ID)), textCell(quotePath(p.Name)))
}

func (a *app) pinCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pin",
		Short: "Ask the service to pin DAGs that it has or can fetch",
		Long: `Ask the service to pin DAGs that it has or can fetch. As at NFT.Storage, an
upload and a pin of the same root are one thing: "carload pin rm" also deletes
the upload, and "carload rm" also removes the pin.`,
		Example: `  carload pin add ROOT --name movie.mkv
  carload pin list
  carload pin rm ID`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.pinAddCommand(), a.pinListCommand(), a.pinRmCommand())
	return cmd
}

func (a *app) pinAddCommand() *cobra.Command {
	var end endpointFlags
	var name string
	cmd := &cobra.Command{
		Use:     "add CID…",
		Short:   "Pin DAGs: prints CID, state, ID and name",
		Example: `  carload pin add ROOT --name movie.mkv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cids, err := parseCIDs(args)
			if err != nil {
				return err
			}
			return a.withService(cmd.Context(), end, func(t *nftstorage.Target) error {
				rows := a.pins()
				defer rows.flush()
				for _, c := range cids {
					p, err := t.AddPin(cmd.Context(), c, name)
					if err != nil {
						return fmt.Errorf("%s: %w", c, err)
					}
					a.pinRow(rows, p)
				}
				return nil
			})
		},
	}
	end.add(cmd)
	cmd.Flags().StringVar(&name, "name", "", "name of the pin at the service")
	return cmd
}

func (a *app) pinListCommand() *cobra.Command {
	var end endpointFlags
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the pins: CID, state, ID, name",
		Example: `  carload pin list --endpoint https://api.example.org`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withService(cmd.Context(), end, func(t *nftstorage.Target) error {
				rows := a.pins()
				defer rows.flush()
				for p, err := range t.Pins(cmd.Context()) {
					if err != nil {
						return err
					}
					a.pinRow(rows, p)
				}
				return nil
			})
		},
	}
	end.add(cmd)
	return cmd
}

func (a *app) pinRmCommand() *cobra.Command {
	var end endpointFlags
	cmd := &cobra.Command{
		Use:   "rm ID",
		Short: "Remove a pin, and delete the upload of the same root",
		Long: `Remove a pin. As at NFT.Storage, an upload and a pin of the same root are one
thing, so this also deletes the upload.`,
		Example: `  carload pin rm ID`,
		Args:    oneArg(`the pin's ID, as "carload pin list" shows it`),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withService(cmd.Context(), end, func(t *nftstorage.Target) error {
				if err := t.RemovePin(cmd.Context(), args[0]); err != nil {
					return err
				}
				a.gone(goneEvent{eventHeader: header("withdrawn"), ID: args[0]})
				return nil
			})
		},
	}
	end.add(cmd)
	return cmd
}
