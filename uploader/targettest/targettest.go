// Package targettest tests what every target must do against the real far side:
// it runs the checks of package doctor, and injects faults on the way.
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

// Subject is a target, with the far side to test it with.
type Subject struct {
	// Open makes a client for the far side at a URL.
	Open func(tb testing.TB, url string) uploader.Target
	// URL is the URL of the far side; empty if it is not reached over HTTP.
	URL string
	// Stranger is Open with a wrong secret; nil if there is none.
	Stranger func(tb testing.TB, url string) uploader.Target
	// Kind classifies requests: which ones send a shard, and which ones commit.
	Kind func(*http.Request) uploadertest.Op
	// Read reads a file back without using the target; nil if not possible.
	Read func(tb testing.TB, root cid.Cid) []byte
	// Lacks lists the checks of package doctor that do not apply.
	Lacks []string
}

// Run runs all tests.
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

// hasty is a clock that does not wait.
type hasty struct{}

// Now implements [uploader.Clock].
func (hasty) Now() time.Time { return time.Now() }

// Sleep implements [uploader.Clock].
func (hasty) Sleep(ctx context.Context, _ time.Duration) error { return context.Cause(ctx) }

// upload uploads n random bytes in shards of 1.2 MB and checks what arrived.
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

// faults injects faults on the way to the far side. Each must happen (the
// server checks that), and every upload must be complete in the end.
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
