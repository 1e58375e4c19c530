package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/cmd/carload/internal/cli"
)

const sentinel = "sentinel-k7JpQ2vX9w"

// tattler repeats the token wherever a service can put text.
func tattler(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Echo", token)
	if strings.HasSuffix(r.URL.Path, "/moved") {
		w.Header().Set("Location", "http://127.0.0.2:1/"+token)
		w.WriteHeader(http.StatusFound)
		return
	}
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"ok":false,"error":{"code":"%s","message":"your key %s is wrong","reason":"%s","details":"%s"}}`, token, token, token, token)
}

// No command reveals the token, wherever it came from, with the most verbose
// log, and with a service that repeats it.
func TestTokenStaysSecret(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(tattler))
	t.Cleanup(server.Close)
	const root = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"
	commands := [][]string{
		{"up", "file"},
		{"up", "-n", "file"},
		{"up", "--verify", "full", "file"},
		{"up", "--gateway", server.URL + "/moved", "file"},
		{"cid", "file"},
		{"pack", "file", "-o", "shards"},
		{"verify", root},
		{"verify", "--full", root},
		{"verify", "--sample", "3", root},
		{"verify", "shards"},
		{"status", root},
		{"list"},
		{"rm", root},
		{"pin", "add", root},
		{"pin", "list"},
		{"pin", "rm", "x"},
		{"unpack", "shards", "-o", "out"},
		{"ls", "shards"},
		{"inspect", "shards"},
		{"profiles"},
		{"version"},
		{"ledger", "list"},
		{"ledger", "show", root},
		{"ledger", "forget", root},
		{"ledger", "repair"},
		{"key", "list"},
		{"service", "fsck"},
		{"service", "gc"},
		{"serve", "--listen", "256.0.0.1:0"},
		{"completion", "bash"},
		{"help"},
	}
	for _, way := range []string{"variable", "file", "command"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			path := func(name string) string { return filepath.Join(home, name) }
			secretFile := filepath.Join(t.TempDir(), "token")
			for name, text := range map[string]string{path("file"): "hello world\n", secretFile: sentinel + "\n"} {
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			environ := []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "CARLOAD_ENDPOINT=" + server.URL, "CARLOAD_RETRIES=0", "CARLOAD_VERIFY_TIMEOUT=1ms", "CARLOAD_LOG_FILE=" + path("log")}
			switch way {
			case "variable":
				environ = append(environ, "CARLOAD_TOKEN="+sentinel)
			case "file":
				environ = append(environ, "CARLOAD_TOKEN_FILE="+secretFile)
			case "command":
				environ = append(environ, "CARLOAD_TOKEN_COMMAND=cat "+secretFile)
			}
			said := 0
			for _, command := range commands {
				args := []string{"-vv", "--json"}
				for _, a := range command {
					if a == "file" || a == "shards" || a == "out" {
						a = path(a)
					}
					args = append(args, a)
				}
				var out, err bytes.Buffer
				cli.Main(context.Background(), args, cli.Stdio{In: strings.NewReader(""), Out: &out, Err: &err}, environ)
				said += out.Len() + err.Len()
				for name, text := range map[string]string{"standard output": out.String(), "standard error": err.String()} {
					if strings.Contains(text, sentinel) {
						t.Errorf("%v: the token is in its %s:\n%s", command, name, text)
					}
				}
			}
			if said < 10_000 {
				t.Errorf("the commands said %d bytes in all", said)
			}
			searched := 0
			err := filepath.WalkDir(home, func(name string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				text, err := os.ReadFile(name)
				if bytes.Contains(text, []byte(sentinel)) {
					t.Errorf("the token is in %s", name)
				}
				searched++
				return err
			})
			if err != nil || searched < 3 { // the log, the ledger, a store
				t.Errorf("%d files were searched: %v", searched, err)
			}
		})
	}
}
