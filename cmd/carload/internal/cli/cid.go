package cli

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
)

func (a *app) cidCommand() *cobra.Command {
	var in inputFlags
	var rootOnly bool
	cmd := &cobra.Command{
		Use:   "cid PATH…",
		Short: "Compute root CIDs; nothing is sent or written",
		Long: `Compute the root CIDs that uploads of files, directories and standard input (-)
would have. Of a .car file that holds a whole DAG its root is printed; the
blocks in it are not hashed, which "carload verify" does. --as-file takes it for
a file like any other.`,
		Example: `  carload cid movie.mkv
  carload cid --profile unixfs-v0-2015 movie.mkv
  carload cid --list photos
  tar c photos | carload cid -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.source(cmd, in, args)
			if err != nil {
				return err
			}
			return a.describeAll(src, a.newResults(rootOnly), "hashed", func(in uploader.Input, _ uploader.DAG) error {
				if _, ok := in.(foreign); ok {
					a.con.say("%s: the root of the archive, whose blocks were not hashed; carload verify checks them", quotePath(in.Name()))
				}
				return nil
			})
		},
	}
	in.add(cmd)
	cmd.Flags().BoolVarP(&rootOnly, "root-only", "Q", false, "print the CID only")
	return cmd
}

// describeAll runs pass 1 alone over all inputs, and calls then with each of
// them and its DAG.
func (a *app) describeAll(src *source, res *results, what string, then func(uploader.Input, uploader.DAG) error) (err error) {
	defer func() { err = errors.Join(err, src.close()) }()
	ctx := a.life.soft
	var read, total, done, inputs atomic.Int64
	progress := func() uploader.Progress {
		return uploader.Progress{BytesHashed: read.Load(), BytesToHash: total.Load(), InputsDone: done.Load(), Inputs: inputs.Load()}
	}
	stop := a.showProgress(phases{first: "hashing"}, progress)
	defer stop()
	res.src = src
	if err := src.begin(""); err != nil {
		return err
	}
	for in := range src.inputs() {
		inputs.Add(1)
		sized, ok := in.(uploader.Sized)
		if ok {
			total.Add(sized.Size())
		}
		r := uploader.Result{Name: in.Name()}
		a.board.begin(quotePath(in.Name()), 0)
		var dag uploader.DAG
		var err error
		if ok {
			err = src.checkSize(in.Name(), sized.Size())
		}
		if err == nil {
			dag, err = in.Describe(ctx, &read)
		}
		if err == nil {
			r.Root, r.Bytes, r.Blocks, r.Left, r.DAG = dag.Root(), dag.Size(), dag.Len(), uploader.LeftOut(dag), dag
			if !ok {
				total.Add(dag.Size())
				err = src.checkSize(in.Name(), dag.Size())
			}
			if err == nil {
				err = then(in, dag)
			}
		}
		res.add(r, errors.Join(err, in.Close()))
		done.Add(1)
		a.board.end(quotePath(in.Name()))
		if ctx.Err() != nil {
			break
		}
	}
	stop()
	err = res.finish(progress(), what)
	if cause := context.Cause(ctx); err == nil && cause != nil {
		return cause // between two inputs, so that none of them failed
	}
	return err
}
