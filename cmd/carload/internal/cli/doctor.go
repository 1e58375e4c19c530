package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/doctor"
)

// checkEvent is the result of one check of a target.
type checkEvent struct {
	eventHeader
	Target  string `json:"target"`
	Check   string `json:"check"`
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`
	Promise string `json:"promise,omitempty"`
}

func (a *app) targetTestCommand() *cobra.Command {
	var end endpointFlags
	var largest size
	cmd := &cobra.Command{
		Use:   "test NAME|TARGET",
		Short: "Test a target with a few small uploads, and remove them again",
		Long: `Test a target: does it refuse a wrong secret, return receipts, resume uploads,
not call an incomplete upload done, return blocks, and list and delete uploads?
carload sends about 18 MB of random bytes, in uploads that it removes again if
the target can delete. With --largest it tries larger and larger shards, up to
100 MiB.

Each line has a check, its result, and what carload observed. The exit code is 0
if nothing fails; a target may lack features.`,
		Example: `  carload target test home
  carload target test s3://shards/films --largest 100MiB`,
		Args: oneArg("the name of a target, or a target in the form that --to accepts"),
		RunE: func(cmd *cobra.Command, args []string) error {
			end.to, end.endpoint = args, ""
			return a.withTarget(cmd.Context(), end, func(t *target) error {
				stranger, err := a.stranger(cmd.Context(), end, args[0])
				if err != nil {
					return err
				}
				if stranger == nil {
					return a.examine(cmd.Context(), t, nil, int64(largest))
				}
				return errors.Join(a.examine(cmd.Context(), t, stranger.Target, int64(largest)), stranger.close())
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Var(&largest, "largest", "try shards up to this size")
	end.addHow(cmd)
	return cmd
}

// strangerSecret is a secret that no target accepts.
const strangerSecret = "carload-target-test"

// stranger returns the same target with a wrong secret. It returns nil if the
// target has no secret, or one that we can't replace.
func (a *app) stranger(ctx context.Context, f endpointFlags, to string) (*target, error) {
	c, name, err := a.lookUp(to)
	if err != nil {
		return nil, err
	}
	if c.Type == kindBucket {
		if f, err = f.with(c); err != nil {
			return nil, err
		}
		return a.openBucketAs(ctx, f, c, func(known aws.Credentials) aws.Credentials {
			known.SecretAccessKey = strangerSecret
			return known
		})
	}
	if c.Type != kindService && c.Type != kindKubo && c.Type != kindCluster {
		return nil, nil //nolint:nilnil // there is none
	}
	secret, err := a.secretOf(ctx, f, name, c)
	if err != nil || secret == "" {
		return nil, err
	}
	return a.openWith(f, c, strangerSecret)
}

func (a *app) examine(ctx context.Context, t *target, stranger uploader.Target, largest int64) error {
	dir, err := a.env.cacheDir()
	if err != nil {
		return usageError{error: err}
	}
	dir = filepath.Join(dir, "spool")
	opts := doctor.Options{Target: t.Target, Stranger: stranger, Dir: dir, LargestBody: largest, Logger: a.log}
	worst := exitOK
	for f := range doctor.Examine(ctx, opts) {
		detail := f.Detail
		if f.Err != nil {
			detail = f.Err.Error()
		}
		a.con.event(checkEvent{header("check"), t.String(), f.Check, f.Verdict.String(), printable(detail), f.Promise})
		a.con.result(fmt.Sprintf("%s\t%s\t%s", f.Check, f.Verdict, printable(detail)))
		if f.Verdict == doctor.Fails {
			worst = worse(worst, exitCode(f.Err))
			if f.Promise != "" {
				a.con.say("does not hold at %s: %s", t, f.Promise)
			}
			for _, h := range hintsFor(f.Err) {
				a.con.say("  hint: %s", h)
			}
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if worst != exitOK {
		return silent{worst}
	}
	return nil
}
