package cli

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	golog "github.com/ipfs/go-log/v2"
)

// Messages of boxo go to our log, in its format, and not to stderr.
func TestLibraryLog(t *testing.T) {
	library := golog.Logger("boxo/gateway") // created before there is a log, as all of them are
	var out bytes.Buffer
	takeLibraryLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	t.Cleanup(func() { takeLibraryLog(slog.New(slog.DiscardHandler)) })
	library.With("path", "/ipfs/x").Errorw("it broke\nhere", "status", 500)
	library.Debug("chatter")
	got := out.String()
	for _, want := range []string{"level=ERROR", `msg="it broke\nhere"`, "library=boxo/gateway", "path=/ipfs/x", "status=500"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	if strings.Count(got, "\n") != 1 {
		t.Errorf("%q", got)
	}
}
