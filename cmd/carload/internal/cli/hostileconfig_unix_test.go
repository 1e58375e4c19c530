//go:build unix

package cli_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// hostile runs a command that must end in a minute, and returns all that it
// prints.
func hostile(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	return hostileAt(t, t.TempDir(), args...)
}

func hostileAt(t *testing.T, home string, args ...string) (out string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := newCommand(t, home, args...)
	limited := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	limited.Env, limited.Dir = cmd.Env, cmd.Dir
	p, err := limited.CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("carload %s does not end\n%.300s", strings.Join(args, " "), p)
	}
	return string(p), err
}

// What a configuration file says is printed without what a terminal would act
// on, and a small one takes little time.
func TestHostileConfiguration(t *testing.T) {
	t.Parallel()
	raw := regexp.MustCompile(`[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]`)
	escape := `\u001b[31m\u009b31m\u007f\u202e`
	for name, tt := range map[string]struct {
		text string
		ok   bool
	}{
		"string":       {`name = "` + escape + `"`, true},
		"bool":         {`mode = "` + escape + `"`, true},
		"number":       {`transfers = "` + escape + `"`, true},
		"list":         {`exclude = ["` + escape + `"]`, true},
		"name":         {`"` + escape + `" = 1`, false},
		"deep targets": {"[" + strings.Repeat("targets.", 30000) + "a]\nb = 1", false},
		"deep list":    {"profile = " + strings.Repeat("[", 250000), false},
		"list in it":   {"[targets.a]\ntype = \"dir\"\npath = [[1]]", false},
		"no table":     {"[targets]\na = 1", false},
		"many names":   {strings.Repeat("x", 300<<10), false},
	} {
		path := filepath.Join(t.TempDir(), "\x1b[31m\u009bconfig.toml")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"config", "show", "--origin"}, {"config", "show", "--json"}, {"config", "path"}} {
			out, err := hostile(t, append(args, "--config", path)...)
			if args[1] != "path" && (err == nil) != tt.ok {
				t.Errorf("%s: %v: %v, %.300s", name, args, err, out)
			}
			if raw.MatchString(out) {
				t.Errorf("%s: %v: %.300q", name, args, out)
			}
		}
	}
}
