package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/uploader"
)

// results prints the outcome of each input, and the summary.
type results struct {
	app      *app
	rootOnly bool
	level    uploader.VerifyLevel // of the last verified input
	hidden   bool                 // standard output is used for something else
	verifies bool                 // successful inputs were verified, to the requested level
	newName  string               // the requested name
	listed   map[string]bool      // inputs whose entries were printed, if there are several targets
	target   string               // the target of the next outcome, if there are several
	other    bool                 // not the first target; inputs are counted only there
	src      *inputs
	files    bool // shards are files in a directory
	manifest *manifest
	started  time.Time

	inputs, outcomes, failed, shards, held int
	bytes, sent, filtered                  int64
	worst                                  int
}

func (a *app) newResults(rootOnly bool) *results {
	return &results{app: a, rootOnly: rootOnly, listed: map[string]bool{}, started: time.Now()}
}

// addBatch takes the outcome of a batch. Its members have their own outcomes.
func (r *results) addBatch(res uploader.Result, err error) {
	r.shards += res.Shards
	r.held += res.Held
	r.sent += res.Sent
	event := batchEvent{eventHeader: header("batch"), Name: res.Name, Members: res.Members, Bytes: res.Bytes, Blocks: res.Blocks, Shards: res.Shards, Held: res.Held, Sent: res.Sent, Target: r.target}
	if res.Root.Defined() {
		event.Root = res.Root.String()
	}
	if err != nil {
		err = r.app.blame(err)
		event.Error = printable(err.Error())
		event.Code = exitCode(err)
	} else if r.verifies {
		event.Verify = res.Level.String()
	}
	r.app.con.event(event)
	if err == nil && res.Root.Defined() {
		r.app.con.say("%s: the service lists them as %s", quotePath(res.Name), res.Root)
		r.addPieces(res)
	}
}

// add takes the outcome of one input.
func (r *results) add(res uploader.Result, err error) {
	if res.Members > 0 {
		r.addBatch(res, err)
		return
	}
	if err != nil {
		err = r.app.blame(err)
	}
	code := exitCode(err)
	if code == exitOther && !res.Root.Defined() {
		code = exitSources // describing it failed
	}
	r.outcomes++
	filtered := filteredOf(res)
	if !r.other {
		r.inputs++
		r.bytes += res.Bytes
		r.filtered += filtered
	}
	r.worst = worse(r.worst, code)
	r.shards += res.Shards
	r.held += res.Held
	r.sent += res.Sent
	if err == nil && res.Left > 0 {
		code = exitSources
		r.worst = worse(r.worst, code)
	}
	row := reportRow{Path: res.Name, Bytes: res.Bytes, Target: r.target, Code: code}
	defer func() { r.src.report.add(row) }()
	event := fileEvent{eventHeader: header("file"), Path: res.Name, Bytes: res.Bytes, Blocks: res.Blocks, Shards: res.Shards, Held: res.Held, Sent: res.Sent, Left: res.Left, Filtered: filtered, Code: code, Target: r.target}
	if res.Root.Defined() {
		event.Root = res.Root.String()
		row.Root = event.Root
	}
	if res.Batch.Defined() {
		event.Batch, event.Entry = res.Batch.String(), strings.ToValidUTF8(res.Entry, "\uFFFD")
		row.Batch = event.Batch
	}
	if res.Sample != nil {
		event.Sample = &sampleReport{res.Sample.Blocks, res.Sample.Sample}
	}
	if err != nil {
		r.failed++
		if errors.As(err, new(interrupted)) {
			err = fmt.Errorf("%s: %w", quotePath(res.Name), err)
		}
		if r.target != "" {
			err = fmt.Errorf("%s: %w", quotePath(r.target), err)
		}
		event.Error = printable(err.Error())
		row.Error = event.Error
		r.app.con.event(event)
		r.app.con.errorLine(err, code)
		return
	}
	if r.newName != "" && res.Held == res.Shards && !res.Batch.Defined() {
		r.app.con.warn("%s is already there, and keeps its name", quotePath(res.Name))
	}
	if r.verifies && res.Sent == 0 && res.Held == res.Shards && r.src.isArchive(res.Name) {
		r.app.con.say("%s: the service already has all of it, and carload verified that; it did not read the file again, which carload verify does", quotePath(res.Name))
	}
	if r.verifies {
		event.Verify = res.Level.String()
		r.level = res.Level
	}
	if res.Left > 0 {
		row.Error = fmt.Sprintf("%s left out: the root covers only the others", entries(res.Left))
		event.Error = row.Error
		r.app.con.line("carload: error: " + quotePath(res.Name) + ": " + row.Error)
	}
	r.addEntries(res)
	r.app.con.event(event)
	switch {
	case r.hidden:
		r.app.con.say("%s: root %s", quotePath(res.Name), res.Root)
	case r.rootOnly && r.other: // already printed
	case r.rootOnly:
		r.app.con.result(res.Root.String())
	case r.target != "":
		r.app.con.result(res.Root.String() + "\t" + quotePath(res.Name) + "\t" + quotePath(r.target))
	default:
		r.app.con.result(res.Root.String() + "\t" + quotePath(res.Name))
	}
	r.addPieces(res)
}

// addEntries prints the entries of a directory, if wanted and not already
// printed for another target.
func (r *results) addEntries(res uploader.Result) {
	dag, ok := res.DAG.(*chunker.DAG)
	if !ok || r.src == nil || !r.src.flags.list || r.listed[res.Name] {
		return
	}
	if r.target != "" {
		r.listed[res.Name] = true
	}
	defer littleGarbage.limit()()
	of := ""
	if res.Name != "." {
		of = strings.TrimSuffix(res.Name, "/") + "/"
	}
	for e := range dag.AllEntries() {
		if r.app.con.unwritten() != nil {
			return
		}
		kind := unixfs.File
		switch e.Type {
		case fs.ModeDir:
			kind = unixfs.Directory
		case fs.ModeSymlink:
			kind = unixfs.Symlink
		}
		r.app.con.event(entryEvent{header("entry"), e.Cid.String(), kind.String(), e.Size, e.Path, e.Target, res.Name})
		r.app.con.result(e.Cid.String() + "\t" + quotePath(of+e.Path))
	}
}

// finish prints the summary, and returns the error of the command. The errors
// of the inputs are already printed.
func (r *results) finish(p uploader.Progress, what string) error {
	if r.inputs == 0 && r.app.life.soft.Err() == nil && r.src.elsewhere == 0 && r.src.flags.retryFrom == "" && !r.src.remote.isListed() {
		return errNoPaths()
	}
	if err := r.src.report.close(); err != nil {
		r.worst = worse(r.worst, exitCode(err))
		r.app.con.errorLine(err, exitCode(err))
	}
	if err := r.manifest.write(); err != nil {
		r.worst = worse(r.worst, exitCode(err))
		r.app.con.errorLine(err, exitCode(err))
	}
	r.filtered += r.src.filtered
	took := time.Since(r.started)
	r.app.con.event(summaryEvent{header("summary"), r.inputs, r.failed, r.bytes, r.sent, p.BytesResent, r.shards, r.held, p.Retries, took.Seconds(), r.worst, r.filtered})
	if r.failed == 0 {
		line := fmt.Sprintf("%s: %s, %s", what, count(r.inputs, "input"), formatBytes(r.bytes))
		if r.shards > 0 {
			line += ", " + count(r.shards, "shard")
			if r.verifies || r.held > 0 { // nobody asks a directory what it has
				line += fmt.Sprintf(" (%d already there)", r.held)
			}
		}
		if p.Retries > 0 {
			line += fmt.Sprintf(", %s, %s sent again", count(int(p.Retries), "retry"), formatBytes(p.BytesResent))
		}
		if r.filtered > 0 {
			line += fmt.Sprintf(", %d filtered out", r.filtered)
		}
		if n := r.src.elsewhere; n > 0 {
			line += fmt.Sprintf(", %s left to other parts", count(n, "path"))
		}
		if r.verifies {
			line += ", verified (" + r.level.String() + ")"
		}
		line += ", in " + formatDuration(took)
		if r.sent >= 1<<20 && took > 0 { // for fewer bytes, a rate says nothing
			line += fmt.Sprintf(", %s/s", formatBytes(int64(float64(r.sent)/took.Seconds())))
		}
		r.app.con.say("%s", line)
		if r.worst != exitOK { // entries were left out, or there is no report
			return silent{r.worst}
		}
		return nil
	}
	if r.outcomes > r.inputs {
		r.app.con.line(fmt.Sprintf("carload: error: %d of %d uploads failed", r.failed, r.outcomes))
	} else if r.inputs > 1 {
		r.app.con.line(fmt.Sprintf("carload: error: %d of %d inputs failed", r.failed, r.inputs))
	}
	return silent{r.worst}
}

// filteredOf is how many directory entries the flags left out.
func filteredOf(res uploader.Result) int64 {
	if dag, ok := res.DAG.(*chunker.DAG); ok {
		return dag.Filtered()
	}
	return 0
}

func entries(n int64) string {
	if n == 1 {
		return "1 entry was"
	}
	return fmt.Sprintf("%d entries were", n)
}

// silent is an error that is already printed.
type silent struct{ code int }

func (e silent) Error() string { return fmt.Sprintf("failed with exit code %d", e.code) }
