package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
)

type statusEvent struct {
	eventHeader
	Root  string   `json:"root"`
	State string   `json:"state"`
	Parts []string `json:"parts"`
}

func (a *app) statusCommand() *cobra.Command {
	var end endpointFlags
	cmd := &cobra.Command{
		Use:   "status CID…",
		Short: "Ask the service what it has of a DAG",
		Long: `Ask the service for the state of uploads: pinned (complete), pinning (blocks are
missing), queued, failed, or unknown (the service does not have it), and for the
number of shards. The exit code is 0 if all are pinned, otherwise 4.`,
		Example: `  carload status ROOT
  carload status --to home ROOT`,
		RunE: func(cmd *cobra.Command, args []string) error {
			roots, err := parseCIDs(args)
			if err != nil {
				return err
			}
			return a.withTarget(cmd.Context(), end, func(t *target) error { return a.status(cmd.Context(), t, roots) })
		},
	}
	end.add(cmd)
	return cmd
}

func (a *app) status(ctx context.Context, t *target, roots []cid.Cid) error {
	checker, ok := t.Target.(uploader.StatusChecker)
	if !ok {
		return t.lacks("can't report what it has: carload verify checks the shards in a directory")
	}
	worst := exitOK
	rows := a.con.table("CID", "STATE", "SHARDS")
	defer rows.flush()
	for _, root := range roots {
		s, err := checker.Status(ctx, root)
		if errors.Is(err, uploader.ErrNotFound) {
			s.State, err = "unknown", nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", root, err)
		}
		if s.State != uploader.StatePinned {
			worst = exitUnverified
		}
		event := statusEvent{eventHeader: header("status"), Root: root.String(), State: string(s.State), Parts: []string{}}
		for _, p := range s.Parts {
			event.Parts = append(event.Parts, p.String())
		}
		a.con.event(event)
		rows.row(textCell(root.String()), textCell(printable(string(s.State))), countCell(len(s.Parts)))
	}
	if worst != exitOK {
		return silent{worst}
	}
	return nil
}

func parseCIDs(args []string) ([]cid.Cid, error) {
	if len(args) == 0 {
		return nil, usagef("give a CID")
	}
	cids := make([]cid.Cid, len(args))
	for i, s := range args {
		c, err := cid.Decode(s)
		if err != nil {
			return nil, usagef("%q is not a CID", s)
		}
		cids[i] = c
	}
	return cids, nil
}
