package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/carload/carload/internal/store"
)

// listener reports that the store logs something.
type listener struct {
	slog.Handler
	heard chan string
}

func (l listener) Handle(_ context.Context, r slog.Record) error {
	l.heard <- r.Message
	return nil
}

func (listener) Enabled(context.Context, slog.Level) bool { return true }

// scrub runs a scrub until it has reached the end of the store once.
func (s *shelf) scrub(opts store.ScrubOptions, heard <-chan string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	var g errgroup.Group
	g.Go(func() error { return s.Scrub(ctx, opts) })
	for message := range heard {
		if message == "scrubbed" {
			break
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		s.t.Error(err)
	}
}

// fault is something that happens to a shard.
type fault struct {
	name   string
	happen func(t *testing.T, dir, part string, b block)
	start  bool // the next start can detect it
	heals  bool // it disappears by itself: the shard is sound
}

var faults = []fault{
	{"shard deleted", func(t *testing.T, dir, part string, _ block) {
		if err := os.Remove(shardFile(dir, part)); err != nil {
			t.Fatal(err)
		}
	}, true, false},
	{"shard truncated", func(t *testing.T, dir, part string, _ block) {
		info, err := os.Stat(shardFile(dir, part))
		if err == nil {
			err = os.Truncate(shardFile(dir, part), info.Size()-1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}, true, false},
	{"bit flipped", damage, false, false},
	{"disk error", func(t *testing.T, dir, part string, _ block) {
		// The lowest addresses of a process cannot be read: EIO.
		path := shardFile(dir, part)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/proc/self/mem", path); err != nil {
			t.Fatal(err)
		}
	}, true, false},
	{"row of the shard deleted", func(t *testing.T, dir, part string, _ block) {
		change(t, dir, `DELETE FROM shards WHERE cid = ?`, cid.MustParse(part).Bytes())
	}, true, false},
	{"row of a block deleted", func(t *testing.T, dir, _ string, b block) {
		change(t, dir, `DELETE FROM blocks WHERE mh = ?`, []byte(b.CID.Hash()))
	}, false, true},
}

// Damage that the store can know of counts at once, until what was lost is sent
// again.
func TestDamageIsKnown(t *testing.T) {
	t.Parallel()
	leaves := []block{raw("leaf a"), raw("leaf b"), raw("leaf c"), raw("shared")}
	inner := []block{cborNode("inner a", leaves[0].CID, leaves[3].CID), pbNode("inner b", leaves[1].CID, leaves[2].CID)}
	root := pbNode("root", inner[0].CID, inner[1].CID)
	shards := [][]byte{carOf(root, inner[0], leaves[0]), carOf(root, leaves[1]), carOf(root, leaves[2], inner[1]), carOf(root, leaves[3])}
	other := pbNode("other", leaves[3].CID)
	needy := cborNode("needy", inner[1].CID) // another root that needs the lost block
	for _, f := range faults {
		for _, how := range []string{"read", "fsck", "scrub", "start"} {
			for victim, b := range map[int]block{1: leaves[1], 2: inner[1]} {
				if victim == 1 && how != "start" && testing.Short() {
					continue // nodes are the harder part
				}
				t.Run(fmt.Sprintf("%s, %s, %d", f.name, how, victim), func(t *testing.T) {
					t.Parallel()
					if f.name == "disk error" && runtime.GOOS != "linux" {
						t.Skip("needs /proc")
					}
					dir := t.TempDir()
					heard := make(chan string, 1000)
					opts := store.Options{Dir: dir, Logger: slog.New(listener{heard: heard})}
					s := newShelf(t, opts)
					var u upload
					for _, shard := range shards {
						u = s.put(shard)
					}
					s.put(carOf(other, raw("unrelated")))
					s.put(carOf(needy, raw("unrelated too")))
					for _, c := range []block{root, other, needy} {
						if got := s.state(c.CID); got != complete {
							t.Fatalf("before: %d", got)
						}
					}
					f.happen(t, dir, u.Parts[victim], b)
					known := true
					switch how {
					case "read":
						if s.has(b) != f.heals {
							t.Error("the block was given out, or not")
						}
					case "fsck":
						if r := fsck(t, s); len(r.Problems) == 0 {
							t.Error("no problem was found")
						}
					case "scrub":
						s.scrub(store.ScrubOptions{}, heard)
						if st, err := s.Status(t.Context()); err != nil || st.Scrub.Problems == 0 {
							t.Errorf("%+v %v", st, err)
						}
					case "start":
						known = f.start
						s.close()
						s = newShelf(t, opts)
					}
					want := incomplete
					if !known || f.heals {
						want = complete
					}
					got := s.upload(root.CID)
					if got.State != want || s.state(needy.CID) != want {
						t.Errorf("state %d of the root and %d of another that needs it, want %d", got.State, s.state(needy.CID), want)
					}
					if listed := slices.Contains(got.Parts, u.Parts[victim]); listed != (want == complete) || len(got.Parts) < 3 {
						t.Errorf("parts: %q", got.Parts)
					}
					if s.state(other.CID) != complete {
						t.Error("damage elsewhere made another upload incomplete")
					}
					if known && !f.heals { // the mark is durable
						s.close()
						s = newShelf(t, opts)
						if got := s.state(root.CID); got != incomplete {
							t.Errorf("after a restart: %d", got)
						}
					}
					if u := s.put(shards[victim]); u.State != complete || len(u.Parts) != 4 {
						t.Errorf("sent again: %+v", u)
					}
					for _, b := range append(append(inner, leaves...), root, other, needy) {
						if !s.has(b) {
							t.Errorf("sent again: %s is not held", b.CID)
						}
					}
					if r := fsck(t, s); len(r.Problems) > 0 {
						t.Errorf("sent again: %+v", r)
					}
					if st, err := s.Status(t.Context()); err != nil || st.DamagedShards+st.LostBlocks != 0 {
						t.Errorf("sent again: %+v %v", st, err)
					}
				})
			}
		}
	}
}

// A good copy from anywhere mends an upload, although its damaged shard must
// still be sent again.
func TestGoodCopyFromElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf := raw("leaf")
	root := pbNode("root", leaf.CID)
	part := s.put(carOf(root, leaf)).Parts[0]
	damage(t, dir, part, leaf)
	if s.has(leaf) || s.state(root.CID) != incomplete {
		t.Fatal("damage was not seen")
	}
	s.put(carOf(pbNode("somebody's"), leaf))
	if u := s.upload(root.CID); u.State != complete || len(u.Parts) != 0 || !s.has(leaf) {
		t.Errorf("%+v", u)
	}
	if st, err := s.Status(t.Context()); err != nil || st.DamagedShards != 1 || st.LostBlocks != 0 {
		t.Errorf("%+v %v", st, err)
	}
}

// Shards that were away, as on a disk that was not mounted, count again once
// they are back and checked.
func TestFilesThatComeBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf := raw("leaf")
	root := pbNode("root", leaf.CID)
	s.put(carOf(root, leaf))
	s.close()
	away := filepath.Join(t.TempDir(), "away")
	if err := os.Rename(filepath.Join(dir, "shards"), away); err != nil {
		t.Fatal(err)
	}
	s = newShelf(t, store.Options{Dir: dir})
	if got := s.state(root.CID); got != incomplete {
		t.Errorf("away: %d", got)
	}
	s.close()
	if err := os.Remove(filepath.Join(dir, "shards")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, filepath.Join(dir, "shards")); err != nil {
		t.Fatal(err)
	}
	s = newShelf(t, store.Options{Dir: dir})
	if r := fsck(t, s); len(r.Problems) > 0 {
		t.Errorf("%+v", r)
	}
	if u := s.upload(root.CID); u.State != complete || len(u.Parts) != 1 {
		t.Errorf("back: %+v", u)
	}
}

// A scrub continues where it stopped, begins anew only when it is due, and
// reads no faster than allowed.
func TestScrubGoesOn(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 1000)
	s := newShelf(t, store.Options{Logger: slog.New(listener{heard: heard})})
	for i := range 5 {
		s.put(carOf(raw(fmt.Sprint("shard ", i))))
	}
	ctx := &stopAfter{Context: t.Context(), n: 6}
	if err := s.Scrub(ctx, store.ScrubOptions{BytesPerSecond: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	part, err := s.Status(t.Context())
	if err != nil || part.Scrub.Shards == 0 || part.Scrub.Shards == 5 {
		t.Fatalf("interrupted: %+v %v", part, err)
	}
	s.scrub(store.ScrubOptions{}, heard)
	end, err := s.Status(t.Context())
	if err != nil || end.Scrub.Shards != 5 || end.Scrub.Cycles != 1 || !end.Scrub.Began.Equal(part.Scrub.Began) || end.Scrub.Bytes != end.Bytes {
		t.Errorf("at the end: %+v %v", end, err)
	}
	s.scrub(store.ScrubOptions{Every: time.Nanosecond}, heard)
	if again, err := s.Status(t.Context()); err != nil || again.Scrub.Cycles < 2 || again.Scrub.Began.Equal(end.Scrub.Began) {
		t.Errorf("again: %+v %v", again, err)
	}
}

// Whatever damage any DAG has, an upload is complete if and only if a walk from
// its root over sound copies is.
func TestDamageOfAnyDAG(t *testing.T) {
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		dir := filepath.Join(t.TempDir(), fmt.Sprint(n))
		s := newShelf(t, store.Options{Dir: dir})
		defer s.close()
		d := drawDAG(rt, fmt.Sprintf("%d-%d ", n, n))
		shards, roots := d.drawShards(rt)
		files := make([]string, len(shards)) // by CAR CID
		sound := make([]map[string]bool, len(shards))
		put := func(i int) {
			body := carOf(shards[i]...)
			files[i] = carCID(body)
			if _, err := s.tryPut(body); err != nil {
				rt.Fatal(err)
			}
			sound[i] = make(map[string]bool)
			for _, b := range shards[i] {
				sound[i][string(b.CID.Hash())] = true
			}
		}
		check := func(when string) {
			held := make(map[string]bool)
			for i := range shards {
				for mh := range sound[i] {
					held[mh] = true
				}
			}
			for _, root := range roots {
				want := incomplete
				if d.complete(root, held) {
					want = complete
				}
				if got := s.state(d.blocks[root].CID); got != want {
					rt.Fatalf("%s: root %d is %d, want %d", when, root, got, want)
				}
			}
		}
		for i := range shards {
			put(i)
		}
		check("before")
		for step := range rapid.IntRange(1, 6).Draw(rt, "steps") {
			i := rapid.IntRange(0, len(shards)-1).Draw(rt, "shard")
			what := rapid.SampledFrom([]string{"flip", "flip", "delete", "send again", "restart"}).Draw(rt, "what")
			switch what {
			case "flip":
				b := shards[i][rapid.IntRange(0, len(shards[i])-1).Draw(rt, "block")]
				if mh := string(b.CID.Hash()); sound[i][mh] {
					damage(t, dir, files[i], b)
					delete(sound[i], mh)
				}
			case "delete":
				if err := os.Remove(shardFile(dir, files[i])); err != nil && !os.IsNotExist(err) {
					rt.Fatal(err)
				}
				sound[i] = nil
			case "send again":
				put(i)
			case "restart":
				s.close()
				s = newShelf(t, store.Options{Dir: dir})
			}
			r, err := s.Fsck(t.Context())
			if err != nil {
				rt.Fatal(err)
			}
			for _, p := range r.Problems { // about files, not about their records in the index
				if p.Shard == "" || strings.Contains(p.What, "count as complete") {
					rt.Fatalf("step %d, %s of shard %d: %v", step, what, i, p)
				}
			}
			check(fmt.Sprintf("step %d, %s of shard %d", step, what, i))
			for _, b := range d.blocks {
				s.has(b) // has checks that it never serves other bytes
			}
			check("after reading")
		}
		for i := range shards {
			put(i)
		}
		check("mended")
		if r, err := s.Fsck(t.Context()); err != nil || len(r.Problems) > 0 {
			rt.Fatalf("mended: %+v %v", r, err)
		}
	})
}

// A store from before the table of parents also handles lost blocks.
func TestDamageOfAnOlderStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf, second := raw("leaf"), raw("second")
	inner := pbNode("inner", leaf.CID)
	root, other := cborNode("root", inner.CID), pbNode("other", second.CID)
	s.put(carOf(root, inner))
	part := s.put(carOf(root, leaf)).Parts[1]
	s.put(carOf(other, second))
	s.close()
	for _, q := range []string{`DROP TABLE damage`, `DROP TABLE parents`, `DROP TABLE pieces`, `DROP TABLE staging`} {
		exec(t, dir, q)
	}
	exec(t, dir, `PRAGMA user_version = 2`)
	s = newShelf(t, store.Options{Dir: dir})
	top := pbNode("top", root.CID) // made later, over older nodes
	if u := s.put(carOf(top, raw("unrelated"))); u.State != complete {
		t.Fatalf("%+v", u)
	}
	damage(t, dir, part, leaf)
	if s.has(leaf) {
		t.Error("a damaged block was given out")
	}
	for c, want := range map[cid.Cid]store.State{root.CID: incomplete, top.CID: incomplete, other.CID: complete} {
		if got := s.state(c); got != want {
			t.Errorf("%s: %d, want %d", c, got, want)
		}
	}
	s.put(carOf(root, leaf))
	for _, c := range []cid.Cid{root.CID, top.CID, other.CID} {
		if got := s.state(c); got != complete {
			t.Errorf("mended: %s: %d", c, got)
		}
	}
	if r := fsck(t, s); len(r.Problems) > 0 {
		t.Errorf("%+v", r)
	}
}

// flipLast flips a bit in the last byte of a file, in place, if there is a
// file.
func flipLast(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var last [1]byte
	if _, err := f.ReadAt(last[:], info.Size()-1); err != nil {
		return err
	}
	last[0] ^= 1
	_, err = f.WriteAt(last[:], info.Size()-1)
	return err
}

// Readers that find damage, uploads, checks and collections run at the same
// time. They must not disturb each other, and must leave a consistent index.
func TestDamageUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	shared := raw("shared by all")
	var roots []block
	var shards [][]byte
	var all []block
	for i := range 6 {
		leaves := []block{raw(fmt.Sprintf("leaf a of %d", i)), raw(fmt.Sprintf("leaf b of %d", i))}
		inner := cborNode(fmt.Sprintf("inner %d", i), leaves[0].CID, shared.CID)
		root := pbNode(fmt.Sprintf("root %d", i), inner.CID, leaves[1].CID)
		roots = append(roots, root)
		all = append(all, leaves[0], leaves[1], inner, root)
		shards = append(shards, carOf(root, inner, leaves[0]), carOf(root, leaves[1], shared))
	}
	put := func(i int) error { _, err := s.tryPut(shards[i]); return err }
	for i := range shards {
		if err := put(i); err != nil {
			t.Fatal(err)
		}
	}
	steps := 40
	if testing.Short() {
		steps = 10
	}
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			for range steps {
				i := rand.IntN(len(shards))
				var err error
				switch rand.IntN(6) {
				case 0:
					err = put(i)
				case 1: // a file that is being replaced may keep its sound bytes
					err = flipLast(shardFile(dir, carCID(shards[i])))
				case 2:
					_, err = s.Fsck(t.Context())
				case 3:
					if _, err = s.Collect(t.Context()); errors.Is(err, store.ErrDamaged) {
						err = nil
					}
				default:
					s.has(all[rand.IntN(len(all))])
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range shards {
		if err := put(i); err != nil {
			t.Fatal(err)
		}
	}
	if r := fsck(t, s); len(r.Problems) > 0 {
		t.Errorf("%+v", r) // this may remove marks that nobody needs any more
	}
	for _, root := range roots {
		if u := s.upload(root.CID); u.State != complete || len(u.Parts) != 2 || !s.has(root) {
			t.Errorf("%+v", u)
		}
	}
	if r := fsck(t, s); len(r.Problems) > 0 {
		t.Errorf("%+v", r)
	}
}
