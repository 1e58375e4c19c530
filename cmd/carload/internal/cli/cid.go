package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
)

func (a *app) cidCommand() *cobra.Command {
	var in inputFlags
	var rootOnly bool
	var explain []string
	cmd := &cobra.Command{
		Use:   "cid PATH…",
		Short: "Compute root CIDs; send and write nothing",
		Long: `Compute the root CIDs that uploads of files, directories and standard input (-)
would have. For a .car file that contains a complete DAG, print its root without
hashing the blocks; "carload verify" hashes them. --as-file treats it as an
ordinary file.`,
		Example: `  carload cid movie.mkv
  carload cid --profile unixfs-v0-2015 movie.mkv
  carload cid --list photos
  carload cid --explain photos/2019/draft.jpg photos
  tar c photos | carload cid -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.inputs(cmd, in, args)
			if err != nil {
				return err
			}
			if len(explain) > 0 {
				return src.explain(explain)
			}
			d, err := uploader.NewDescriber(uploader.Options{MaxUploadBytes: src.limit, Observer: observer{con: a.con, board: &a.board}})
			if err != nil {
				return usageError{error: err}
			}
			return a.describeAll(src, d, a.newResults(rootOnly), "hashed", func(in uploader.Input, _ uploader.DAG) error {
				if _, ok := in.(foreign); ok {
					a.con.say("%s: this root is from the archive, whose blocks were not hashed; carload verify checks them", quotePath(in.Name()))
				}
				return nil
			})
		},
	}
	in.add(cmd)
	cmd.Flags().BoolVarP(&rootOnly, "root-only", "Q", false, "print the CID only")
	cmd.Flags().StringArrayVar(&explain, "explain", nil, "say whether this path, below a given one, would be taken, and which rule decides; reads no file")
	return cmd
}

// describeAll describes all inputs and sends nothing. It calls then with each
// input and its DAG.
func (a *app) describeAll(src *inputs, d *uploader.Describer, res *results, what string, then func(uploader.Input, uploader.DAG) error) (err error) {
	defer func() { err = errors.Join(err, src.close()) }()
	ctx := a.life.soft
	stop := a.showProgress(phases{first: "hashing"}, d.Progress)
	defer stop()
	res.src = src
	if err := src.begin(""); err != nil {
		return err
	}
	for in := range src.each() {
		r, err := d.Describe(ctx, in, func(dag uploader.DAG) error { return then(in, dag) })
		a.board.end(quotePath(in.Name()))
		res.add(r, err)
		if ctx.Err() != nil {
			break
		}
	}
	stop()
	err = res.finish(d.Progress(), what)
	if cause := context.Cause(ctx); err == nil && cause != nil {
		return cause // stopped between two inputs, so none of them failed
	}
	return err
}
