package cli

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/uploader/receipts"
	"github.com/carload/carload/uploader/sqliteledger"
)

func (a *app) ledgerExportCommand() *cobra.Command {
	var path, out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the ledger as JSON lines, for another host or a report",
		Long: `Write uploads, their receipts and the last upload of each path as JSON lines.
"ledger import" adds them to the ledger of a host that takes over the work, and
"ledger report" merges the exports of many hosts into one list. They contain no
secrets.`,
		Example: `  carload ledger export -o host7.jsonl
  ssh host7 carload ledger export | carload ledger import -`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withLedger(path, func(l *sqliteledger.Ledger) error {
				return a.output(out, func(w io.Writer) error {
					n, err := receipts.Write(w, l.Export(cmd.Context()))
					if err == nil && out != "" {
						a.con.say("%s", count(n, "record"))
					}
					return err
				})
			})
		},
	}
	addLedger(cmd, &path)
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to this file, which appears when it is complete")
	return cmd
}

// output calls f with standard output, or with a file that appears when f is
// done.
func (a *app) output(path string, f func(io.Writer) error) (err error) {
	if path == "" || path == "-" {
		return f(resultWriter{a.con, isTerminal(a.con.out)})
	}
	tmp, path, err := newFile(path, ".carload-*") // mode 0600
	if err != nil {
		return err
	}
	err = f(tmp)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return durable.SyncDir(filepath.Dir(path))
}

// resultWriter is standard output for results that come as a stream. A terminal
// gets them without what it would act on.
type resultWriter struct {
	con      *console
	terminal bool
}

// Write implements [io.Writer].
func (w resultWriter) Write(p []byte) (int, error) {
	shown := p
	if w.terminal {
		lines := strings.Split(string(p), "\n")
		for i := range lines {
			lines[i] = printable(lines[i])
		}
		shown = []byte(strings.Join(lines, "\n"))
	}
	w.con.write(shown)
	return len(p), w.con.failure()
}

type importedEvent struct {
	eventHeader
	From    string `json:"from"`
	Records int    `json:"records"`
}

func (a *app) ledgerImportCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "import FILE…",
		Short: "Add the ledgers of other hosts (- for standard input)",
		Long: `Add exports of other ledgers to this one, which is created if it does not exist.
carload checks a file to its end before it adds anything. Existing entries stay.

carload trusts an import as it trusts its own ledger: if a target can be asked,
carload still asks it whether it has everything; otherwise carload does not send
what the ledger lists.`,
		Example: `  carload ledger import host-1.jsonl host-2.jsonl`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("give files that carload ledger export has written"), helpFor(cmd)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := a.ledgerPath(path)
			if err != nil {
				return err
			}
			if path == noLedger {
				return usagef("--ledger %s stores nothing", noLedger)
			}
			return a.openLedger(file, func(l *sqliteledger.Ledger) error {
				for _, name := range args {
					n, err := a.importExport(cmd, l, name)
					if err != nil {
						return fmt.Errorf("import %q: %w", name, err)
					}
					a.con.event(importedEvent{header("imported"), name, n})
					a.con.result(fmt.Sprintf("%s\t%s", quotePath(name), count(n, "record")))
				}
				return nil
			})
		},
	}
	addLedger(cmd, &path)
	return cmd
}

// importExport checks a whole export and then adds it. It keeps what can be
// read only once in a temporary file without a name.
func (a *app) importExport(cmd *cobra.Command, l *sqliteledger.Ledger, name string) (n int, err error) {
	in, err := a.openStream(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	f := in.regular
	if f == nil {
		if f, err = os.CreateTemp("", "carload-import-*"); err != nil {
			return 0, err
		}
		defer f.Close()
		_ = os.Remove(f.Name()) // stays behind where this is not possible
		in.Reader = io.TeeReader(in.Reader, f)
	}
	for _, err := range receipts.Read(in) {
		if err == nil {
			err = cmd.Context().Err()
		}
		if err != nil {
			return 0, malformed(err)
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	n, err = l.Import(cmd.Context(), receipts.Read(f))
	return n, malformed(err)
}

func malformed(err error) error {
	if errors.Is(err, receipts.ErrMalformed) {
		return coded{err, exitMismatch}
	}
	return err
}

// outcomeRow is a row of "ledger report". New versions may only add fields.
type outcomeRow struct {
	Path     string    `json:"path"`
	Bytes    *int64    `json:"bytes"` // null if unknown
	Root     string    `json:"root"`
	Target   string    `json:"target"`
	When     time.Time `json:"when,omitzero"`
	Verified string    `json:"verified"` // how; empty if unknown or not verified
	State    string    `json:"state"`
	Error    string    `json:"error"`
	RawPath  []byte    `json:"rawPath"` // the path in base64, if it is not valid text
}

// The states of a path in a report.
const (
	stateDone       = "done"
	stateFailed     = "failed"
	stateMissing    = "missing"
	stateUnfinished = "unfinished"
)

var outcomeColumns = []string{"path", "bytes", "root", "target", "when", "verified", "state", "error", "rawPath"}

// mostFailures limits the failures in all reports together.
const mostFailures = 1 << 20

func (a *app) ledgerReportCommand() *cobra.Command {
	var path, list, out string
	cmd := &cobra.Command{
		Use:   "report [EXPORT…] [RUN…]",
		Short: "Merge many ledgers into one list: path, size, root, target, time, verification",
		Long: `Merge the exports of many ledgers into one list. Without exports, use this
host's ledger. You can also give reports of runs (carload up --report): paths
that failed in them, and are in no ledger, appear as failed. With --files-from,
paths that nobody knows appear as missing. Uploads that began but were never
verified appear as unfinished, under their root.

The list is CSV, or JSON lines with --json or if the file name ends in .jsonl.
If anything is failed, missing or unfinished, the exit code is 3.`,
		Example: `  carload ledger report host*.jsonl run*.csv --files-from LIST -o all.csv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if list == "-" {
				return usagef("--files-from - does not work here: carload reads the list twice")
			}
			r := &ledgerReport{app: a, list: list, failed: map[string]reportRow{}}
			if len(args) == 0 {
				return a.withLedger(path, func(l *sqliteledger.Ledger) error { return r.write(cmd, l, out) })
			}
			if cmd.Flags().Changed("ledger") {
				return usagef("you gave --ledger and exports: export that ledger too")
			}
			return r.gather(cmd, args, out)
		},
	}
	addLedger(cmd, &path)
	cmd.Flags().StringVar(&list, "files-from", "", "the expected paths, one per line; relative ones are below the current directory")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to this file, .csv or .jsonl, which appears when it is complete")
	return cmd
}

// ledgerReport merges many ledgers into one list.
type ledgerReport struct {
	app    *app
	list   string               // expected paths
	failed map[string]reportRow // by path
	counts map[string]int       // number of rows by state
	csv    *csv.Writer
	json   io.Writer
}

// gather imports the exports into a temporary ledger, which merges and sorts
// what does not fit into memory.
func (r *ledgerReport) gather(cmd *cobra.Command, args []string, out string) (err error) {
	dir, err := os.MkdirTemp("", "carload-report-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l, err := sqliteledger.Open(cmd.Context(), filepath.Join(dir, "ledger.db"), sqliteledger.Options{NoSync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for _, name := range args {
		if err := r.take(cmd, l, name); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return r.write(cmd, l, out)
}

// take adds an export, or the report of a run.
func (r *ledgerReport) take(cmd *cobra.Command, l *sqliteledger.Ledger, name string) error {
	f, err := r.app.openStream(name)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 64<<10)
	head, err := in.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if receipts.IsExport(head) {
		_, err := l.Import(cmd.Context(), receipts.Read(in))
		return malformed(err)
	}
	rows := csvRows(in)
	if len(head) > 0 && head[0] == '{' {
		rows = jsonRows(in)
	}
	for row, err := range rows {
		if err != nil {
			return coded{fmt.Errorf("neither a ledger export nor a report of a run: %w", err), exitMismatch}
		}
		if row.Code == exitOK || row.Of != "" {
			continue
		}
		if len(row.RawPath) > 0 {
			row.Path = string(row.RawPath)
		}
		if row.Path, err = filepath.Abs(row.Path); err != nil {
			return err
		}
		if len(r.failed) == mostFailures {
			return fmt.Errorf("more than %d paths failed: report on fewer runs", mostFailures)
		}
		r.failed[row.Path] = row
	}
	return nil
}

// pathKey stands for a path in memory.
func pathKey(path string) [16]byte {
	sum := sha256.Sum256([]byte(path))
	return [16]byte(sum[:])
}

// listed calls f with the absolute paths that are expected.
func (r *ledgerReport) listed(f func(path string) error) error {
	if r.list == "" {
		return nil
	}
	src := &inputs{app: r.app}
	for p, err := range src.listed(r.list, '\n') {
		if err == nil {
			p, err = filepath.Abs(p)
		}
		if err == nil {
			err = f(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *ledgerReport) write(cmd *cobra.Command, l *sqliteledger.Ledger, out string) error {
	r.counts = map[string]int{}
	absent := map[[16]byte]bool{} // paths of the list that no ledger has so far
	if err := r.listed(func(p string) error { absent[pathKey(p)] = true; return nil }); err != nil {
		return err
	}
	err := r.app.output(out, func(w io.Writer) error {
		buf := bufio.NewWriter(w)
		if ext := strings.ToLower(filepath.Ext(out)); ext == ".json" || ext == ".jsonl" || out == "" && r.app.con.json {
			r.json = buf
		} else {
			r.csv = csv.NewWriter(buf)
			if err := r.csv.Write(outcomeColumns); err != nil {
				return err
			}
		}
		if err := r.rows(cmd, l, absent); err != nil {
			return err
		}
		if r.csv != nil {
			r.csv.Flush()
			if err := r.csv.Error(); err != nil {
				return err
			}
		}
		return buf.Flush()
	})
	if err != nil {
		return err
	}
	bad := r.counts[stateFailed] + r.counts[stateMissing] + r.counts[stateUnfinished]
	r.app.con.say("%d done, %d failed, %d missing, %d unfinished", r.counts[stateDone], r.counts[stateFailed], r.counts[stateMissing], r.counts[stateUnfinished])
	if bad > 0 {
		return silent{exitSources}
	}
	return nil
}

func (r *ledgerReport) rows(cmd *cobra.Command, l *sqliteledger.Ledger, absent map[[16]byte]bool) error {
	for s, err := range l.LastSources(cmd.Context()) {
		if err != nil {
			return err
		}
		delete(absent, pathKey(s.Source))
		delete(r.failed, s.Source)
		row := outcomeRow{Path: s.Source, Root: s.Root.String(), Target: s.Target, When: s.At, State: stateDone}
		if s.Known {
			row.Bytes, row.Verified = &s.Bytes, s.Level.String()
		}
		if err := r.add(row); err != nil {
			return err
		}
	}
	for u, err := range l.Unfinished(cmd.Context()) {
		if err != nil {
			return err
		}
		if err := r.add(outcomeRow{Root: u.Root.String(), Target: u.Target, When: u.Begun, State: stateUnfinished}); err != nil {
			return err
		}
	}
	fail := func(path string) error {
		f, ok := r.failed[path]
		if !ok {
			return nil
		}
		delete(r.failed, path)
		delete(absent, pathKey(path))
		return r.add(outcomeRow{Path: path, Root: f.Root, Target: f.Target, State: stateFailed, Error: cmp.Or(f.Error, "exit code "+strconv.Itoa(f.Code))})
	}
	err := r.listed(func(path string) error {
		if err := fail(path); err != nil || !absent[pathKey(path)] {
			return err
		}
		delete(absent, pathKey(path)) // the list may have it again
		return r.add(outcomeRow{Path: path, State: stateMissing})
	})
	for _, path := range slices.Sorted(maps.Keys(r.failed)) {
		err = errors.Join(err, fail(path))
	}
	return err
}

func (r *ledgerReport) add(row outcomeRow) error {
	r.counts[row.State]++
	row.Error = printable(row.Error)
	if !utf8.ValidString(row.Path) || strings.Contains(row.Path, "\r") {
		row.RawPath = []byte(row.Path)
		row.Path = printable(row.Path)
	}
	if r.json != nil {
		return json.NewEncoder(r.json).Encode(row)
	}
	bytes, when := "", ""
	if row.Bytes != nil {
		bytes = strconv.FormatInt(*row.Bytes, 10)
	}
	if !row.When.IsZero() {
		when = row.When.UTC().Format(time.RFC3339)
	}
	return r.csv.Write([]string{row.Path, bytes, row.Root, row.Target, when, row.Verified, row.State, row.Error, base64.StdEncoding.EncodeToString(row.RawPath)})
}
