package cli

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/uploader/nftstorage"
)

// Files in the store beside those of the service: the key for this user's
// commands, the address of the running service, and the file that commands lock
// while they use the service there.
const (
	localTokenFile    = "local-token" //nolint:gosec // the name of the file
	localEndpointFile = "local-endpoint"
	localGuestsFile   = "local-guests"
	localKeyName      = "carload (this user)"
)

// embedded is the built-in service in this process, on a loopback address.
// Other commands may use it as guests.
type embedded struct {
	dir     string
	store   *store.Store
	service *service.Service
	server  *service.Server
	group   errgroup.Group
	url     string
	token   string
}

func (a *app) embed(ctx context.Context, dir string) (_ *embedded, err error) {
	st, err := store.Open(ctx, store.Options{Dir: dir, Logger: a.log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.Close())
		}
	}()
	e := &embedded{dir: dir, store: st}
	if e.token, err = localToken(ctx, st, dir); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if e.service, err = service.New(ctx, st, service.Options{Version: version(), MaxConns: maxConns(), Logger: a.log}); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	e.url = "http://" + listener.Addr().String()
	e.server = service.NewServer(e.service.Handler(), service.ServerOptions{MaxConns: maxConns(), Logger: a.log})
	e.group.Go(func() error { return e.server.Serve(listener) })
	if err := writePrivate(filepath.Join(dir, localEndpointFile), e.url+"\n"+transient+"\n"); err != nil {
		return nil, errors.Join(err, e.shut())
	}
	return e, nil
}

// transient is the second line of the address file if the service ends with a
// command.
const transient = "embedded"

func (e *embedded) shut() error {
	return errors.Join(e.server.Close(), e.group.Wait(), e.service.Close())
}

// close ends the service when no other command uses it, or when this command
// must stop at once.
func (a *app) closeEmbedded(e *embedded) error {
	err := os.Remove(filepath.Join(e.dir, localEndpointFile)) // commands that have not read it yet come too late
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	guests, errOpen := os.OpenFile(filepath.Join(e.dir, localGuestsFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err = errors.Join(err, errOpen); errOpen == nil {
		said := false
		err = errors.Join(err, poll(a.life.hard, func() (bool, error) {
			ok, err := lockGuests(guests, true)
			if !ok && err == nil && !said {
				said = true
				a.con.say("another carload uses the store through this one: waiting for it to end")
			}
			return ok, err
		}), guests.Close())
	}
	if errors.Is(err, context.Canceled) || a.life.hard.Err() != nil {
		err = nil // reported elsewhere
	}
	return errors.Join(err, e.shut(), e.store.Close())
}

// guestWait limits how long we wait for a store whose owner does not answer.
const guestWait = 10 * time.Second

// guestPoll is how often we look at a store in use.
const guestPoll = 50 * time.Millisecond

// poll calls f until it reports true.
func poll(ctx context.Context, f func() (bool, error)) error {
	tick := time.NewTicker(guestPoll)
	defer tick.Stop()
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// local is the built-in service over a store, either in this process or in
// another command that shares the store.
type local struct {
	url   string
	token nftstorage.Token
	ends  bool // ends with a command, this one or another
	own   bool // in this process
	close func() error
}

func (a *app) local(ctx context.Context, dir string) (l *local, err error) {
	deadline := time.Now().Add(guestWait)
	errPoll := poll(ctx, func() (bool, error) {
		var e *embedded
		switch e, err = a.embed(ctx, dir); {
		case err == nil:
			l = &local{url: e.url, ends: true, own: true, close: func() error { return a.closeEmbedded(e) }}
			l.token, err = nftstorage.NewToken(e.token)
			return true, nil
		case !errors.Is(err, store.ErrLocked):
			return true, nil
		}
		if l = beGuest(dir); l != nil {
			err = nil
		}
		return l != nil || time.Now().After(deadline), nil
	})
	return l, errors.Join(err, errPoll)
}

// beGuest connects to the service of the command that has the store. It returns
// nil if that service can't be reached.
func beGuest(dir string) *local {
	guests, err := os.OpenFile(filepath.Join(dir, localGuestsFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil
	}
	if l := findLocal(dir, guests); l != nil {
		l.close = guests.Close
		return l
	}
	_ = guests.Close() // there is nobody to tell
	return nil
}

func findLocal(dir string, guests *os.File) *local {
	if ok, err := lockGuests(guests, false); err != nil || !ok {
		return nil // it is about to end
	}
	p, err := readLocal(dir, localEndpointFile)
	secret, errToken := readLocal(dir, localTokenFile)
	lines := strings.Fields(string(p))
	if err != nil || errToken != nil || len(lines) == 0 {
		return nil
	}
	at, err := url.Parse(lines[0])
	if err != nil {
		return nil
	}
	// A killed process leaves the file behind.
	c, err := net.DialTimeout("tcp", at.Host, time.Second)
	if err != nil || c.Close() != nil {
		return nil
	}
	token, err := nftstorage.NewToken(strings.TrimSpace(string(secret)))
	if err != nil {
		return nil
	}
	return &local{url: lines[0], token: token, ends: len(lines) > 1 && lines[1] == transient}
}
