package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/carload/carload/cmd/carload/internal/cli"
)

// leakChecked fails a test run that leaves goroutines behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	if code == 0 {
		http.DefaultClient.CloseIdleConnections()
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func TestMain(m *testing.M) {
	keepDescriptors()
	testscript.Main(leakChecked{m}, map[string]func(){
		"carload": func() {
			out, done := checked()
			code := cli.Main(context.Background(), os.Args[1:], cli.Stdio{In: os.Stdin, Out: out, Err: os.Stderr}, os.Environ())
			done()
			os.Exit(code)
		},
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	schemas := schemaSetup(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			for name, value := range schemas {
				env.Setenv(name, value)
			}
			env.Setenv("HOME", env.WorkDir+"/home")
			env.Setenv("GORACE", "atexit_sleep_ms=50") // avoids a second of waiting at the end of each process
			return os.Mkdir(env.WorkDir+"/home", 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":    cmdCode,
			"random":  cmdRandom,
			"await":   cmdAwait,
			"envfile": cmdEnvfile,
			"fetch":   cmdFetch,
			"damage":  cmdDamage,
			"empty":   cmdEmpty,
		},
		RequireUniqueNames: true,
	})
}

// cmdCode runs a program that must exit with this code: code 3 carload cid x.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// cmdRandom writes a file of this many bytes, the same in each run.
func cmdRandom(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), n)
	ts.Check(errors.Join(err, f.Close()))
}

// cmdAwait waits until a file exists.
func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(20 * time.Second)
	for {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("%s has not appeared", args[0])
		case <-poll.C:
		}
	}
}

// cmdEnvfile sets a variable to the contents of a file.
func cmdEnvfile(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// cmdFetch gets a URL into a file.
func cmdFetch(ts *testscript.TestScript, _ bool, args []string) {
	resp, err := http.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s: %s", args[0], resp.Status, p)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), p, 0o600))
}

// cmdDamage flips a bit in the last byte of each file.
func cmdDamage(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		name = ts.MkAbs(name)
		p, err := os.ReadFile(name)
		ts.Check(err)
		p[len(p)-1] ^= 1
		ts.Check(os.WriteFile(name, p, 0o600))
	}
}

// cmdEmpty checks that directories are empty or missing.
func cmdEmpty(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		entries, err := os.ReadDir(ts.MkAbs(name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			ts.Check(err)
		}
		if len(entries) > 0 {
			ts.Fatalf("%s has %d entries, such as %s", name, len(entries), entries[0].Name())
		}
	}
}
