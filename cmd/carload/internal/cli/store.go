package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carload/carload/internal/store"
)

func (a *app) serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Maintain the service's store",
		Example: `  carload service status
  carload service fsck
  carload service gc`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.statusOfStoreCommand(), a.fsckCommand(), a.gcCommand(), a.piecesOfStoreCommand())
	return cmd
}

type storeEvent struct {
	eventHeader
	store.Status
}

func (a *app) statusOfStoreCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the store contains, what is damaged, and the progress of the scrub",
		Long: `Print what the store contains, what is known to be damaged, and the progress of
the scrub of "carload serve". The service may be running.`,
		Example: `  carload service status --store /srv/carload`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s store.Status
			err := a.withStore(cmd.Context(), dir, func(st *store.Store) (err error) {
				s, err = st.Status(cmd.Context())
				return err
			})
			if errors.Is(err, store.ErrLocked) {
				s, err = a.servedStatus(cmd.Context(), dir)
			}
			if err != nil {
				return err
			}
			return a.storeStatus(s)
		},
	}
	addStore(cmd, &dir)
	return cmd
}

func (a *app) storeStatus(s store.Status) error {
	a.con.event(storeEvent{header("store"), s})
	a.con.result(fmt.Sprintf("%d shards\t%d bytes\t%d damaged\t%d blocks lost", s.Shards, s.Bytes, s.DamagedShards, s.LostBlocks))
	scrub := "never"
	if !s.Scrub.Began.IsZero() {
		scrub = fmt.Sprintf("%d shards\t%d bytes\t%d problems\tsince %s", s.Scrub.Shards, s.Scrub.Bytes, s.Scrub.Problems, s.Scrub.Began.UTC().Format(time.RFC3339))
	}
	if !s.Scrub.Ended.IsZero() {
		scrub += "\tended " + s.Scrub.Ended.UTC().Format(time.RFC3339)
	}
	a.con.result("scrub\t" + scrub)
	if s.DamagedShards+s.LostBlocks > 0 {
		return withHint(coded{fmt.Errorf("the store has %s and lacks %s", count(s.DamagedShards, "damaged shard"), count(s.LostBlocks, "block")), exitMismatch},
			"carload up of the same files sends again what was lost; carload service fsck names the shards")
	}
	return nil
}

// servedStatus asks the service that has the store open.
func (a *app) servedStatus(ctx context.Context, flag string) (s store.Status, err error) {
	dir, err := a.storeDir(flag)
	if err != nil {
		return s, err
	}
	url, errURL := readLocal(dir, localEndpointFile)
	token, errToken := readLocal(dir, localTokenFile)
	if err := errors.Join(errURL, errToken); err != nil {
		return s, withHint(store.ErrLocked, "another command has the store open: wait for it")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSpace(string(url))+"/internal/status", nil)
	if err != nil {
		return s, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	client := &http.Client{Timeout: time.Minute} // whatever has that port now may not answer
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	var answer struct {
		OK    bool
		Value store.Status
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&answer); err != nil || !answer.OK {
		return s, fmt.Errorf("the service answered %s", res.Status)
	}
	return answer.Value, nil
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
		Short: "Hash everything in the store, and compare the index with it",
		Long: `Hash everything in the store, and compare the index with it. Damaged blocks no
longer count as stored, and blocks that were wrongly marked as damaged count
again. Shards are not changed.`,
		Example: `  carload service fsck
  carload service fsck --rebuild`,
		Args: noArgs,
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
	cmd.Flags().BoolVar(&rebuild, "rebuild", false, "rebuild the index from the shards")
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
		Short: "Remove the shards that no upload needs",
		Long: `Remove the shards that no upload needs, from a store that no service has open. A
running service does this itself: see --gc-interval of "carload serve".`,
		Example: `  carload service gc`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			there, err := a.storeThere(dir)
			if err != nil {
				return err
			}
			st, err := store.Open(cmd.Context(), store.Options{Dir: there, Logger: a.log})
			if errors.Is(err, store.ErrLocked) {
				return withHint(err, "nothing was removed; a running carload serve removes what no upload needs every --gc-interval")
			}
			if err != nil {
				return err
			}
			r, err := st.Collect(cmd.Context())
			if err := errors.Join(err, st.Close()); err != nil {
				return err
			}
			a.con.event(gcEvent{header("gc"), r.Shards, r.Files, r.Bytes})
			a.con.result(fmt.Sprintf("%d shards\t%d files\t%d bytes", r.Shards, r.Files, r.Bytes))
			return nil
		},
	}
	addStore(cmd, &dir)
	return cmd
}
