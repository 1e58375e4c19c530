package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Data streams stay as they are, but a terminal gets no sequence that it would
// act on.
func TestStreamsOnATerminal(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	const name = "a\x1b]0;b\a\u009bc"
	if err := os.WriteFile(filepath.Join(home, name), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := newCommand(t, home, "up", name, "--to", "dir:out").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"ledger", "report"}, {"ledger", "export"}, {"ledger", "report", "--json"}} {
		shown := newTerminal(t, 120, 40).run(newCommand(t, home, args...))
		if strings.Contains(shown, "\x1b]") || strings.Contains(shown, "\u009b") || !strings.Contains(shown, "b") {
			t.Errorf("%s: %q", args, shown)
		}
	}
	if out, err := newCommand(t, home, "ledger", "report").Output(); err != nil || !strings.Contains(string(out), name) {
		t.Errorf("%q, %v", out, err)
	}
}
