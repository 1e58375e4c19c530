package walk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/walk"
)

// send writes a file, an archive of it, or the entries of a directory.
type send func(ctx context.Context, r *walk.Reader, w io.Writer) error

func sendFile(c cid.Cid) send {
	return func(ctx context.Context, r *walk.Reader, w io.Writer) error {
		n, err := r.Node(ctx, c)
		if err != nil {
			return err
		}
		body, err := r.Content(ctx, c, n, 0, int64(n.Size))
		if err != nil {
			return err
		}
		defer body.Close()
		return body.WriteTo(ctx, w)
	}
}

func sendArchive(c cid.Cid, twice bool) send {
	return func(ctx context.Context, r *walk.Reader, w io.Writer) error {
		a, err := r.Archive(ctx, c, walk.ArchiveOptions{Duplicates: twice})
		if err != nil {
			return err
		}
		defer a.Close()
		return a.WriteTo(ctx, w)
	}
}

func sendEntries(c cid.Cid) send {
	return func(ctx context.Context, r *walk.Reader, w io.Writer) error {
		n, err := r.Node(ctx, c)
		if err != nil {
			return err
		}
		return r.Entries(ctx, c, n, func(e walk.Entry) error {
			_, err := io.WriteString(w, e.Name)
			return err
		})
	}
}

// sends has one send of each kind, with the expected output.
func sends(t *testing.T, s *shelf) (all []send, want [][]byte) {
	t.Helper()
	many := s.sharded(500, s.add(merkledag.NewRawNode(noise(7, 500)))).Cid()
	all = []send{
		sendFile(s.file(noise(8, 6<<20), 256<<10, 174, true, balancedFile)),
		sendFile(s.file(noise(9, 1<<20), 10<<10, 4, false, trickleFile)),
		sendFile(s.file(noise(10, 6<<20), 1<<20, 174, false, balancedFile)),
		sendArchive(s.tree().Cid(), false), sendArchive(many, true), sendEntries(many),
	}
	for _, f := range all {
		var w bytes.Buffer
		s.check(f(t.Context(), walk.NewReader(s, walk.Options{}), &w))
		want = append(want, w.Bytes())
	}
	return all, want
}

// Any number of walks whose writers are stalled must not keep others from
// reading, and they continue where they stopped.
func TestStandingStill(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	all, want := sends(t, s)
	for _, memory := range []int64{1, 1 << 20, 0} {
		synctest.Test(t, func(t *testing.T) {
			r := walk.NewReader(s, walk.Options{Memory: memory, Walks: 2})
			open := make(chan struct{})
			var wait sync.WaitGroup
			for i := range 12 {
				wait.Go(func() {
					g := &gate{open: open}
					if err := all[i%len(all)](t.Context(), r, g); err != nil || !bytes.Equal(g.got.Bytes(), want[i%len(all)]) {
						t.Errorf("memory %d: %d: %d bytes, %v", memory, i%len(all), g.got.Len(), err)
					}
				})
			}
			synctest.Wait()
			for i, f := range all {
				var w bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if err := f(ctx, r, &w); err != nil || !bytes.Equal(w.Bytes(), want[i]) {
					t.Errorf("memory %d: %d, beside those that stand still: %d bytes, %v", memory, i, w.Len(), err)
				}
				cancel()
			}
			close(open)
			wait.Wait()
		})
	}
}

// Writers that pause again and again take turns, and each gets everything.
func TestPauses(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	all, want := sends(t, s)
	for _, memory := range []int64{1, 0} {
		synctest.Test(t, func(t *testing.T) {
			r := walk.NewReader(s, walk.Options{Memory: memory, Walks: 2})
			var wait sync.WaitGroup
			for i := range 12 {
				wait.Go(func() {
					var w bytes.Buffer
					writes := i
					err := all[i%len(all)](t.Context(), r, writer(func(p []byte) (int, error) {
						if writes++; writes%3 == 0 || i >= 6 && w.Len() > 5<<20 {
							<-time.After(time.Duration(1+writes%7) * 20 * time.Millisecond)
						}
						return w.Write(p)
					}))
					if err != nil || !bytes.Equal(w.Bytes(), want[i%len(all)]) {
						t.Errorf("memory %d: %d: %d bytes, %v", memory, i%len(all), w.Len(), err)
					}
				})
			}
			wait.Wait()
		})
	}
}

type standing struct{}

// If suspended walks hold too much, the gateway hangs up on the longest stalled
// one.
func TestTooManyStandStill(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	f := sendFile(s.file(noise(11, 8<<20), 256<<10, 174, true, balancedFile))
	synctest.Test(t, func(t *testing.T) {
		const walks, room = 2, 5
		r := walk.NewReader(s, walk.Options{Walks: walks, Aside: room * 200 << 10, HangUp: func(ctx context.Context) {
			close(ctx.Value(standing{}).(chan struct{}))
		}})
		var done [20]atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		gone := errors.New("hung up on")
		var wait sync.WaitGroup
		for i := range done {
			wait.Go(func() {
				over := make(chan struct{})
				err := f(context.WithValue(ctx, standing{}, over), r, writer(func([]byte) (int, error) {
					select {
					case <-over:
						return 0, gone
					case <-ctx.Done():
						return 0, ctx.Err()
					}
				}))
				done[i].Store(errors.Is(err, gone))
			})
			<-time.After(time.Second)
		}
		synctest.Wait()
		ended := 0
		for i := range done {
			if done[i].Load() {
				if ended++; i >= ended {
					t.Errorf("%d was hung up on, and one before it was not", i)
				}
			}
		}
		if left := len(done) - ended; left < walks+2 || left > walks+2*room {
			t.Errorf("%d stand still", left)
		}
		cancel()
		wait.Wait()
	})
	var w bytes.Buffer
	s.check(f(t.Context(), walk.NewReader(s, walk.Options{}), &w))
}
