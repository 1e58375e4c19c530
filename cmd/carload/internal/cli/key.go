package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/carload/carload/internal/store"
)

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Create, list and revoke the keys of the service's store",
		Example: `  carload key new laptop
  carload key list
  carload key revoke 2`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keyNewCommand(), a.keyListCommand(), a.keyRevokeCommand())
	return cmd
}

// storeThere returns the directory of an existing store.
func (a *app) storeThere(flag string) (string, error) {
	dir, err := a.storeDir(flag)
	if err != nil {
		return "", err
	}
	if is, err := store.IsStore(dir); err != nil {
		return "", err
	} else if !is {
		return "", withHint(usagef("there is no store at %q", dir), "carload up, carload serve and carload key new create one; --store names another")
	}
	return dir, nil
}

// withStore opens an existing store and calls f with it. No service may have
// the store open.
func (a *app) withStore(ctx context.Context, flag string, f func(*store.Store) error) error {
	dir, err := a.storeThere(flag)
	if err != nil {
		return err
	}
	return a.openStore(ctx, dir, f)
}

// openStore opens or creates the store in a directory, and calls f with it.
func (a *app) openStore(ctx context.Context, dir string, f func(*store.Store) error) (err error) {
	st, err := store.Open(ctx, store.Options{Dir: dir, Logger: a.log})
	if errors.Is(err, store.ErrLocked) {
		return withHint(err, "another process is serving this store: stop it for a moment")
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return f(st)
}

type keyEvent struct {
	eventHeader
	ID          int64     `json:"id"`
	Name        string    `json:"name"`
	User        string    `json:"user"`
	Created     time.Time `json:"created"`
	RateLimited bool      `json:"rateLimited"`
	QuotaBytes  int64     `json:"quotaBytes"`
	Token       string    `json:"token,omitempty"` // only of a new key
}

func newKeyEvent(k store.Key, token string) keyEvent {
	return keyEvent{header("key"), k.ID, k.Name, k.User, k.Created, k.RateLimited, k.QuotaBytes, token}
}

func (a *app) keyNewCommand() *cobra.Command {
	var dir, user string
	var rateLimited bool
	var quota size
	cmd := &cobra.Command{
		Use:     "new NAME",
		Short:   "Create a key and print its token, which is shown only once",
		Example: "  carload key new laptop > token && chmod 600 token",
		Args:    oneArg("the name of the key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return usagef("a key needs a name")
			}
			there, err := a.storeDir(dir)
			if err != nil {
				return err
			}
			return a.openStore(cmd.Context(), there, func(st *store.Store) error {
				k, token, err := st.CreateKey(cmd.Context(), store.KeyOptions{Name: args[0], User: user, RateLimited: rateLimited, QuotaBytes: int64(quota)})
				if errors.Is(err, store.ErrKeyExists) {
					return usageError{error: fmt.Errorf("%q: %w", args[0], err)}
				}
				if err != nil {
					return err
				}
				a.con.event(newKeyEvent(k, token))
				a.con.result(token)
				return nil
			})
		},
	}
	addStore(cmd, &dir)
	cmd.Flags().StringVar(&user, "user", store.DefaultUser, "owner of the key; all keys of a user share that user's uploads")
	cmd.Flags().BoolVar(&rateLimited, "rate-limited", false, "limit the key to 30 requests in 10 seconds, as NFT.Storage did")
	cmd.Flags().Var(&quota, "quota", "maximum bytes of uploads, pins and their records; 0 for no limit")
	return cmd
}

func (a *app) keyListCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the valid keys: ID, user, day, name",
		Example: `  carload key list --store /srv/carload`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), dir, func(st *store.Store) error {
				keys, err := st.Keys(cmd.Context(), 0)
				rows := a.con.table("ID", "USER", "MADE", "NAME")
				defer rows.flush()
				for _, k := range keys {
					a.con.event(newKeyEvent(k, ""))
					day := cell{plain: k.Created.UTC().Format(time.DateOnly), human: timeCell(k.Created).human}
					rows.row(countCell(int(k.ID)), textCell(quotePath(k.User)), day, textCell(quotePath(k.Name)))
				}
				return err
			})
		},
	}
	addStore(cmd, &dir)
	return cmd
}

func (a *app) keyRevokeCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Revoke a key for good; its uploads stay",
		Example: `  carload key revoke 2`,
		Args:    oneArg(`the key's ID, as "carload key list" shows it`),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return usagef("%q is not the ID of a key", args[0])
			}
			return a.withStore(cmd.Context(), dir, func(st *store.Store) error {
				err := st.RevokeKey(cmd.Context(), id)
				if errors.Is(err, store.ErrKeyNotFound) {
					return usageError{error: fmt.Errorf("%d: %w", id, err)}
				}
				if err != nil {
					return err
				}
				a.gone(goneEvent{eventHeader: header("revoked"), ID: args[0]})
				return nil
			})
		},
	}
	addStore(cmd, &dir)
	return cmd
}
