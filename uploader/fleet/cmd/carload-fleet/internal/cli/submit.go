package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/natsqueue"
)

// submission makes jobs from paths.
type submission struct {
	app       *app
	source    []string
	filesFrom string
	hidden    bool
	whole     bool
	batch     fleet.Batcher
	bytes     size
	sources   sources
	job       fleet.Job

	files, total int64
}

func (s *submission) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&s.source, "source", nil, "NAME=DIR: a source root, and its path on this host")
	f.StringVar(&s.filesFrom, "files-from", "", "read more paths from this file, one per line (- for standard input)")
	f.BoolVar(&s.hidden, "hidden", false, "include names that begin with a dot")
	f.BoolVar(&s.whole, "whole", false, "make each directory one upload under one root, not a list of files")
	f.StringSliceVar(&s.job.To, "to", nil, "names of targets that workers know (default: the worker's targets)")
	f.StringVar(&s.job.Recipe.Profile, "profile", "", "CID profile (default: the worker's)")
	f.StringVar(&s.job.Recipe.Chunker, "chunker", "", "as carload up's")
	f.StringVar(&s.job.Recipe.Verify, "verify", "", "as carload up's")
	f.Int64Var(&s.job.Recipe.MaxShardBytes, "max-shard-bytes", 0, "as carload up's, in bytes")
	s.bytes = fleet.DefaultBatchBytes
	f.Var(&s.bytes, "batch-bytes", "group small files into jobs of about this size")
	f.IntVar(&s.batch.Files, "batch-files", fleet.DefaultBatchFiles, "group small files into jobs of about this many files")
}

// check checks that there is something to submit.
func (s *submission) check(paths []string) error {
	if len(paths) == 0 && s.filesFrom == "" {
		return usagef("give the files and directories to submit, or a list of them with --files-from")
	}
	return nil
}

// jobs calls put for every job.
func (s *submission) jobs(ctx context.Context, paths []string, put func(fleet.Job) error) (err error) {
	if s.sources, err = parseSources(s.source); err != nil {
		return err
	}
	s.batch.Job, s.batch.Bytes = s.job, int64(s.bytes)
	all := func(list []fleet.Job) error {
		for _, j := range list {
			if err := put(j); err != nil {
				return err
			}
		}
		return context.Cause(ctx)
	}
	one := func(path string) error { return s.path(path, all) }
	for _, p := range paths {
		if err := one(p); err != nil {
			return err
		}
	}
	if s.filesFrom != "" {
		if err := s.app.lines(s.filesFrom, one); err != nil {
			return err
		}
	}
	return all(s.batch.Flush())
}

// path adds a file, or the files below a directory, ordered by name.
func (s *submission) path(path string, all func([]fleet.Job) error) error {
	if strings.Contains(path, "://") {
		return s.object(path, all)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return err
	}
	if !info.IsDir() || s.whole {
		return s.file(abs, info, all)
	}
	return filepath.WalkDir(abs, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p != abs && !s.hidden && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			s.app.log.Info("left out: not a regular file", "path", p)
			return nil
		}
		return s.file(p, info, all)
	})
}

// below finds the innermost source root that contains a path.
func (s *submission) below(path string) (name, rel string, err error) {
	best := ""
	for n, dir := range s.sources {
		r, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/")+"/")
		if ok && len(dir) > len(best) {
			best, name, rel = dir, n, filepath.ToSlash(r)
		}
	}
	if best == "" {
		return "", "", usagef("%q is in no source root: name it with --source", path)
	}
	return name, rel, nil
}

func (s *submission) file(path string, info fs.FileInfo, all func([]fleet.Job) error) error {
	name, rel, err := s.below(path)
	if err != nil {
		return err
	}
	f := fleet.File{Path: fleet.Path(rel), Bytes: info.Size(), MTime: info.ModTime().UnixNano()}
	if info.IsDir() {
		f.Bytes, f.MTime = -1, 0
	}
	s.files++
	s.total += max(f.Bytes, 0)
	return s.put(name, f, all)
}

// object adds an object of a bucket, which gets a job of its own.
func (s *submission) object(path string, all func([]fleet.Job) error) error {
	name, rel, err := s.below(path)
	if err != nil {
		return err
	}
	s.files++
	return s.put(name, fleet.File{Path: fleet.Path(rel), Bytes: -1}, all)
}

func (s *submission) put(source string, f fleet.File, all func([]fleet.Job) error) error {
	if source != s.batch.Job.Source {
		if err := all(s.batch.Flush()); err != nil {
			return err
		}
		s.batch.Job.Source = source
	}
	if !utf8.ValidString(string(f.Path)) { // reports about it could not be told from others
		j := s.batch.Job
		j.V, j.Files = fleet.Version, []fleet.File{f}
		return all(append(s.batch.Flush(), j))
	}
	return all(s.batch.Add(f))
}

// together is how many jobs are being put at a time: each waits for the disks
// of the servers.
const together = 64

// putAll puts all jobs and counts the new ones.
func (s *submission) putAll(ctx context.Context, q fleet.Queue, paths []string) (jobs, added int64, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(together)
	var fresh atomic.Int64
	err = s.jobs(ctx, paths, func(j fleet.Job) error {
		jobs++
		g.Go(func() error {
			is, err := q.Put(ctx, j)
			if is {
				fresh.Add(1)
			}
			return err
		})
		return nil
	})
	if errPut := g.Wait(); errPut != nil {
		err = errPut // the other error only says that it was cut short
	}
	return jobs, fresh.Load(), err
}

func (a *app) submitCommand() *cobra.Command {
	s := &submission{app: a}
	cmd := &cobra.Command{
		Use:   "submit PATH…",
		Short: "Put files into the queue",
		Long: `Put files, and the files below directories, into the queue. Small files that are
near each other are gathered into one job.

What is there, under way or done is left as it is: after an interruption, or when
files were added, give the same command again. A file that has changed since is
a new job.`,
		Example: `  carload fleet submit --source data=/mnt/data /mnt/data/2026`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.check(args); err != nil {
				return err
			}
			ctx, cancel := a.stopped(cmd.Context())
			defer cancel()
			return a.withQueue(ctx, "carload fleet submit", func(q *natsqueue.Queue, _ *nats.Conn) error {
				jobs, added, err := s.putAll(ctx, q, args)
				if err != nil {
					if cause := context.Cause(ctx); cause != nil {
						err = cause
					}
					return fmt.Errorf("%w; %d jobs were added: run the same command again to go on", err, added)
				}
				if a.json {
					return a.event("submitted", map[string]any{"jobs": jobs, "new": added, "files": s.files, "bytes": s.total})
				}
				return a.print("%d jobs, %d of them new: %d files, %s", jobs, added, s.files, bytesText(s.total))
			})
		},
	}
	s.add(cmd)
	return cmd
}
