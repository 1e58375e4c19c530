package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/embedded"
	"github.com/carload/carload/uploader/fleet/natsqueue"
)

func (a *app) upCommand() *cobra.Command {
	var o embedded.Options
	var cert, key, tokenFile string
	var lease time.Duration
	var replicas int
	var insecure bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the queue: a server on this host, or one of three",
		Long: `Start a NATS server in this process and create the fleet in it. It listens on
loopback by default, and syncs every acknowledged write to disk.

Three servers on three hosts keep the queue if one of them is lost: give each a
--name, its --cluster-listen and the --routes of all three.

With --nats URL, no server is started: the fleet is created on those servers. They
should have "sync_interval: always"; "carload fleet doctor" checks that.`,
		Example: `  carload fleet up
  carload fleet up --name a --listen 10.0.0.1:4222 --cluster-listen 10.0.0.1:6222 \
    --routes 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222 \
    --token-file fleet.token --tls-cert a.crt --tls-key a.key --nats-ca ca.crt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx, cancel := a.stopped(cmd.Context())
			defer cancel()
			if lease < time.Second/2 {
				return usagef("--lease %s: must be at least half a second", lease)
			}
			if replicas == 0 {
				replicas = 1
				if len(o.Routes) > 0 {
					replicas = 3
				}
			}
			qo := natsqueue.Options{Name: a.fleet, Replicas: replicas, Lease: lease}
			if a.conn.url != "" || a.conn.context != "" {
				nc, err := a.connect("carload fleet up")
				if err != nil {
					return err
				}
				defer nc.Close()
				making, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				if _, err := natsqueue.Create(making, nc, qo); err != nil {
					return err
				}
				a.say("the fleet %s is ready at %s", a.fleet, nc.ConnectedUrlRedacted())
				return nil
			}
			if o.Dir == "" {
				if o.Dir, err = a.dataDir(); err != nil {
					return err
				}
			}
			for _, addr := range []string{o.Listen, o.ClusterListen} {
				if addr != "" && !isLoopback(addr) && (cert == "" || tokenFile == "") && !insecure {
					return usagef("other machines can reach %s: give --tls-cert, --tls-key and --token-file, or --insecure", addr)
				}
			}
			if len(o.Routes) > 0 && o.ClusterListen == "" {
				return usagef("--routes: give this server's own address with --cluster-listen")
			}
			if tokenFile != "" {
				if o.Token, err = readSecret(tokenFile); err != nil {
					return err
				}
			}
			if o.TLS, err = serverTLS(cert, key, a.conn.ca); err != nil {
				return err
			}
			o.Logger = a.log
			s, err := embedded.Start(o)
			if err != nil {
				return err
			}
			defer s.Close()
			a.conn.url = s.URL()
			if a.conn.tokenFile == "" {
				a.conn.tokenFile = tokenFile
			}
			nc, err := a.connect("carload fleet up")
			if err != nil {
				return err
			}
			defer nc.Close()
			// It has no leader without the other servers, so it waits for them.
			q, err := natsqueue.Create(ctx, nc, qo)
			if err == nil {
				err = q.MarkEmbedded(ctx)
			}
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			if a.json {
				err = a.event("up", map[string]any{"url": s.URL(), "fleet": a.fleet, "dir": o.Dir})
			} else {
				err = a.print("%s", s.URL())
			}
			a.say("the queue is ready, in %s; stop it with Ctrl-C", o.Dir)
			<-ctx.Done()
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "", "directory of the queue (default: in the user's data directory)")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:4222", "address for workers")
	f.StringVar(&o.Name, "name", "queue", "name of this server, different for each")
	f.StringVar(&o.ClusterListen, "cluster-listen", "", "address for the other servers")
	f.StringSliceVar(&o.Routes, "routes", nil, "the --cluster-listen of all servers, separated by commas")
	f.IntVar(&replicas, "replicas", 0, "number of copies (default: 3 with --routes, else 1)")
	f.DurationVar(&lease, "lease", fleet.DefaultLease, "how long a worker may be silent before another gets its job")
	f.StringVar(&tokenFile, "token-file", "", "file with a token that workers and servers must present")
	f.StringVar(&cert, "tls-cert", "", "certificate of this server")
	f.StringVar(&key, "tls-key", "", "key of the certificate")
	f.BoolVar(&insecure, "insecure", false, "let other machines connect without TLS and token")
	return cmd
}

// dataDir returns the default directory of the queue.
func (a *app) dataDir() (string, error) {
	dir := a.env["XDG_DATA_HOME"]
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usageError{fmt.Errorf("%w (--dir)", err)}
		}
		dir = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(dir, "carload", "fleet"), nil
}

// sources is the flag --source: where this host has source roots.
type sources map[string]string

func parseSources(list []string) (sources, error) {
	s := sources{}
	for _, text := range list {
		name, dir, ok := strings.Cut(text, "=")
		if !ok || !fleet.ValidName(name) || dir == "" {
			return nil, usagef("--source %q: use NAME=DIR, such as data=/mnt/data", text)
		}
		if !strings.Contains(dir, "://") {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return nil, err
			}
			dir = abs
		}
		s[name] = dir
	}
	if len(s) == 0 {
		return nil, usageError{errors.New("say with --source NAME=DIR where this host has the files")}
	}
	return s, nil
}

func (a *app) drainCommand() *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain HOST…",
		Short: "Ask hosts to finish the shards in flight, return their jobs and stop",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withQueue(cmd.Context(), "carload fleet drain", func(q *natsqueue.Queue, _ *nats.Conn) error {
				for _, host := range args {
					if err := q.Drain(cmd.Context(), host, !undo); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "cancel it, for a host that has not seen it")
	return cmd
}
