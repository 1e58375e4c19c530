package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carload/carload/internal/store"
)

func (a *app) serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Look after the service's store",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.fsckCommand(), a.gcCommand())
	return cmd
}

type fsckEvent struct {
	eventHeader
	Shards   int      `json:"shards"`
	Blocks   int64    `json:"blocks"`
	Bytes    int64    `json:"bytes"`
	Orphans  int      `json:"orphans"`
	Problems []string `json:"problems"`
}

func (a *app) fsckCommand() *cobra.Command {
	var dir string
	var rebuild bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Hash everything in the store and compare the index with it",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rebuild {
				there, err := a.storeThere(dir)
				if err != nil {
					return err
				}
				report, err := store.Rebuild(cmd.Context(), there)
				if err != nil {
					return err
				}
				return a.fsckReport(report)
			}
			return a.withStore(cmd.Context(), dir, func(st *store.Store) error {
				report, err := st.Fsck(cmd.Context())
				if err != nil {
					return err
				}
				return a.fsckReport(report)
			})
		},
	}
	addStore(cmd, &dir)
	cmd.Flags().BoolVar(&rebuild, "rebuild", false, "make the index anew from the shards")
	return cmd
}

func (a *app) fsckReport(r *store.FsckReport) error {
	e := fsckEvent{header("fsck"), r.Shards, r.Blocks, r.Bytes, r.Orphans, []string{}}
	for _, p := range r.Problems {
		e.Problems = append(e.Problems, printable(p.String()))
		a.con.line("carload: error: " + p.String())
	}
	a.con.event(e)
	a.con.result(fmt.Sprintf("%d shards\t%d blocks\t%d bytes\t%d orphans\t%d problems", r.Shards, r.Blocks, r.Bytes, r.Orphans, len(r.Problems)))
	if len(r.Problems) > 0 {
		return coded{fmt.Errorf("the store has %s", count(len(r.Problems), "problem")), exitMismatch}
	}
	return nil
}

type gcEvent struct {
	eventHeader
	Shards int   `json:"shards"`
	Files  int   `json:"files"`
	Bytes  int64 `json:"bytes"`
}

func (a *app) gcCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove the shards that no upload needs any more",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), dir, func(st *store.Store) error {
				r, err := st.Collect(cmd.Context())
				if err != nil {
					return err
				}
				a.con.event(gcEvent{header("gc"), r.Shards, r.Files, r.Bytes})
				a.con.result(fmt.Sprintf("%d shards\t%d files\t%d bytes", r.Shards, r.Files, r.Bytes))
				return nil
			})
		},
	}
	addStore(cmd, &dir)
	return cmd
}
