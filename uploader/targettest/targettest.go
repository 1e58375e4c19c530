// Package targettest is what every target must do, run against the real far
// side: the checks of package doctor, and faults on the way.
package targettest

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/doctor"
	"github.com/carload/carload/uploader/uploadertest"
)

// Subject is a target, and the far side that it is tried with.
type Subject struct {
	// Open makes a client of the far side that asks at a URL.
	Open func(tb testing.TB, url string) uploader.Target
	// URL is where the far side is; empty if it is not reached over HTTP.
	URL string
	// Stranger is Open with a secret that is not good; nil if there is none.
	Stranger func(tb testing.TB, url string) uploader.Target
	// Kind tells which requests send a shard, and which commit.
	Kind func(*http.Request) uploadertest.Op
	// Read gives a file back by another way than the target; nil if there is none.
	Read func(tb testing.TB, root cid.Cid) []byte
	// Lacks are the checks of package doctor that do not apply.
	Lacks []string
}

// Run runs everything.
func Run(t *testing.T, s Subject) {
	t.Run("checks", func(t *testing.T) { s.checks(t) })
	t.Run("bytes", func(t *testing.T) {
		for _, n := range []int{0, 1, 1 << 20, 3_333_333} {
			s.upload(t, s.Open(t, s.URL), n)
		}
	})
	if s.URL == "" {
		return
	}
	t.Run("faults", func(t *testing.T) { s.faults(t) })
}

func (s *Subject) checks(t *testing.T) {
	opts := doctor.Options{Target: s.Open(t, s.URL), Dir: t.TempDir(), LargestBody: 5 << 20}
	if s.Stranger != nil {
		opts.Stranger = s.Stranger(t, s.URL)
	}
	n := 0
	for f := range doctor.Examine(t.Context(), opts) {
		n++
		t.Logf("%-14s %s %s", f.Check, f.Verdict, f.Detail)
		switch lacks := slices.Contains(s.Lacks, f.Check); {
		case f.Verdict == doctor.Fails:
			t.Errorf("%s: %v", f.Check, f.Err)
		case lacks != (f.Verdict == doctor.Lacks):
			t.Errorf("%s: %s (%v)", f.Check, f.Verdict, f.Err)
		}
	}
	if n < 11 {
		t.Errorf("%d checks were run", n)
	}
}

// hasty does not wait.
type hasty struct{}

// Now implements [uploader.Clock].
func (hasty) Now() time.Time { return time.Now() }

// Sleep implements [uploader.Clock].
func (hasty) Sleep(ctx context.Context, _ time.Duration) error { return context.Cause(ctx) }

// upload uploads n random bytes in shards of 1.2 MB and looks at what arrived.
func (s *Subject) upload(t *testing.T, target uploader.Target, n int) {
	t.Helper()
	data := make([]byte, n)
	_, _ = rand.Read(data)
	u, err := uploader.New(target, uploader.Options{MaxShardBytes: 1_200_000, UploadName: "the file", Clock: hasty{}})
	if err != nil {
		t.Fatal(err)
	}
	in := uploader.Stream("-", io.LimitReader(bytes.NewReader(data), int64(n)), uploader.StreamOptions{Dir: t.TempDir(), Chunker: chunker.Options{}})
	var root cid.Cid
	for r, err := range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
		if err != nil {
			t.Fatal(err)
		}
		root = r.Root
	}
	if c, ok := target.(uploader.StatusChecker); ok {
		if status, err := c.Status(t.Context(), root); err != nil || status.State != uploader.StatePinned {
			t.Errorf("the status is %+v, %v", status, err)
		}
	}
	if s.Read != nil {
		if got := s.Read(t, root); !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back, not the %d that were sent", len(got), n)
		}
	}
}

// faults are met on the way to the far side. Each must happen (the server sees
// to that), and none may keep an upload from being complete in the end.
func (s *Subject) faults(t *testing.T) {
	const enough = 200_000
	for _, test := range []struct {
		name   string
		op     uploadertest.Op
		faults []uploadertest.Fault
	}{
		{"refused for now", uploadertest.Upload, []uploadertest.Fault{uploadertest.Status(503), uploadertest.Pass, uploadertest.Status(502)}},
		{"cut", uploadertest.Upload, []uploadertest.Fault{uploadertest.Drop(enough), uploadertest.Drop(0)}},
		{"swallowed", uploadertest.Upload, []uploadertest.Fault{uploadertest.Swallow}},
		{"answered by nobody", uploadertest.Upload, []uploadertest.Fault{uploadertest.LoseReply, uploadertest.Pass, uploadertest.LoseReply}},
		{"answer cut", uploadertest.Upload, []uploadertest.Fault{uploadertest.Break(0)}},
		{"damaged", uploadertest.Upload, []uploadertest.Fault{uploadertest.Flip(enough), uploadertest.Pass, uploadertest.Flip(enough)}},
		{"damaged at the end", uploadertest.Upload, []uploadertest.Fault{uploadertest.Flip(1_048_000)}},
		{"commit refused for now", uploadertest.Commit, []uploadertest.Fault{uploadertest.Status(503)}},
		{"commit cut", uploadertest.Commit, []uploadertest.Fault{uploadertest.Drop(0), uploadertest.Drop(0)}},
		{"commit answered by nobody", uploadertest.Commit, []uploadertest.Fault{uploadertest.LoseReply}},
	} {
		t.Run(test.name, func(t *testing.T) {
			front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, s.URL), Kind: s.Kind})
			if _, ok := s.Open(t, front.URL).(uploader.Finisher); !ok && test.op == uploadertest.Commit {
				t.Skip("it has no commit")
			}
			front.Script(test.op, test.faults...)
			s.upload(t, s.Open(t, front.URL), 5_000_000)
		})
	}
}
