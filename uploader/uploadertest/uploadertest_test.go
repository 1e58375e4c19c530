package uploadertest_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/carload/carload/uploader/uploadertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// witness is a test that records what is reported to it.
type witness struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (w *witness) Helper()          {}
func (w *witness) Cleanup(f func()) { w.cleanups = append(w.cleanups, f) }

func (w *witness) Errorf(format string, args ...any) {
	w.errors = append(w.errors, fmt.Sprintf(format, args...))
}

func get(t *testing.T, srv *uploadertest.Server, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+srv.Token)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// TestFaultThatNeverHappened: if a script is not used up, its test fails.
func TestFaultThatNeverHappened(t *testing.T) {
	t.Parallel()
	const check = "/bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	for requests, want := range []int{2, 1, 0, 0} {
		w := &witness{TB: t}
		srv := uploadertest.NewServer(w, uploadertest.Options{})
		srv.Script(uploadertest.Check, uploadertest.Repeat(2, uploadertest.Status(503))...)
		srv.Always(uploadertest.Block, uploadertest.Status(502)) // this need not happen
		for i := range requests {
			if got := get(t, srv, check); (got == 503) != (i < 2) {
				t.Errorf("request %d: status %d", i, got)
			}
		}
		if c := srv.Count(uploadertest.Check); c.Requests != requests || c.Faults != min(requests, 2) {
			t.Errorf("%d requests: %+v", requests, c)
		}
		for _, f := range w.cleanups {
			f()
		}
		switch {
		case want == 0 && len(w.errors) != 0:
			t.Errorf("%d requests: %q", requests, w.errors)
		case want > 0 && (len(w.errors) != 1 || !strings.Contains(w.errors[0], fmt.Sprintf("%d faults scripted for requests of kind \"check\"", want))):
			t.Errorf("%d requests: %q", requests, w.errors)
		}
	}
}
