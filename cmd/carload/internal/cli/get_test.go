//go:build unix

package cli_test

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/carload/carload/uploader/uploadertest"
)

// A get that is killed again and again resumes each time, and no file gets its
// name before it is complete.
func TestGetIsKilled(t *testing.T) {
	t.Parallel()
	kills := 8
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		kills = 50
	}
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	home := t.TempDir()
	const size = 24 << 20
	file := randomFile(t, home, size)
	up := newCommand(t, home, "up", "-Q", "--endpoint", srv.URL, "--ledger", "none", file)
	up.Env = append(up.Env, "CARLOAD_TOKEN="+srv.Token)
	root, err := up.Output()
	if err != nil {
		t.Fatal(err)
	}
	// A connection on which the file takes about a second.
	for _, op := range []uploadertest.Op{uploadertest.Archive, uploadertest.Block} {
		srv.Always(op, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&slowWriter{w}, r)
		})
	}
	out := filepath.Join(home, "out")
	get := func() error {
		cmd := newCommand(t, home, "get", string(bytes.TrimSpace(root)), "--gateway", srv.URL, "-o", out)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kills > 0 {
			kill := time.AfterFunc(time.Duration(rand.IntN(600))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			kills--
		}
		err := cmd.Wait()
		if code := exitCode(err); code > 0 {
			t.Fatalf("exit code %d: %s", code, stderr.String())
		}
		return err
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for {
		err := get()
		got, there := os.ReadFile(out)
		if there == nil && !bytes.Equal(got, want) {
			t.Fatalf("the file has its name and %d of %d bytes", len(got), size)
		}
		if err == nil {
			if there != nil {
				t.Fatal(there)
			}
			break
		}
	}
	left, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if name := e.Name(); name != "movie" && name != "out" && name[0] != '.' {
			t.Errorf("%s is left behind", name)
		}
	}
}

// slowWriter delays each write.
type slowWriter struct{ http.ResponseWriter }

func (w *slowWriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		k := min(len(p), 128<<10)
		pause := time.NewTimer(4 * time.Millisecond)
		<-pause.C
		m, err := w.ResponseWriter.Write(p[:k])
		if n += m; err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}

// carload never writes what a lying gateway sends, and one honest gateway
// beside it is enough.
func TestGetFromALiar(t *testing.T) {
	t.Parallel()
	honest := uploadertest.NewServer(t, uploadertest.Options{})
	home := t.TempDir()
	file := randomFile(t, home, 9<<20)
	up := newCommand(t, home, "up", "-Q", "--endpoint", honest.URL, "--ledger", "none", file)
	up.Env = append(up.Env, "CARLOAD_TOKEN="+honest.Token)
	out, err := up.Output()
	if err != nil {
		t.Fatal(err)
	}
	root := string(bytes.TrimSpace(out))
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]http.HandlerFunc{
		"other bytes": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(want[:1<<20]) },
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(want[:1<<20]); err != nil {
					return
				}
			}
		},
		"nothing": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"gone":    func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) },
		"broken":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			liar := uploadertest.NewServer(t, uploadertest.Options{Handler: lie})
			dest := filepath.Join(t.TempDir(), "out")
			got, err := newCommand(t, home, "get", root, "--gateway", liar.URL, "--gateway", honest.URL, "-o", dest).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			for _, op := range []uploadertest.Op{uploadertest.Archive, uploadertest.Block} {
				asked += liar.Count(op).Requests
			}
			if asked == 0 {
				t.Error("the liar was not asked")
			}
			if p, err := os.ReadFile(dest); err != nil || !bytes.Equal(p, want) {
				t.Errorf("%d bytes, %v", len(p), err)
			}
			alone := filepath.Join(t.TempDir(), "alone")
			got, err = newCommand(t, home, "get", root, "--gateway", liar.URL, "--retries", "0", "-o", alone).CombinedOutput()
			if code := exitCode(err); code != 4 && code != 5 && code != 6 {
				t.Errorf("from the liar alone: exit code %d: %s", code, got)
			}
			if _, err := os.Stat(alone); err == nil {
				t.Error("a file has its name")
			}
		})
	}
}
