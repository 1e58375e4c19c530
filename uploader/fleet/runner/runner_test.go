//go:build unix

package runner_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/runner"
)

// A job is done when each file has been reported for each of its targets,
// however carload up ended.
func TestEveryTargetCounts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		lines int // printed by carload up before it is killed
		done  bool
	}{
		"both targets of both files": {4, true},
		"one of them is missing":     {3, false},
		"only one target of each":    {2, false},
		"nothing":                    {0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var files []fleet.File
			var says []string
			for _, f := range []string{"a", "b"} {
				path := filepath.Join(dir, f)
				if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
				files = append(files, fleet.File{Path: fleet.Path(f), Bytes: 1})
			}
			for _, target := range []string{"home", "shelf"} {
				for _, f := range []string{"a", "b"} {
					says = append(says, fmt.Sprintf(`echo '{"v":1,"type":"file","path":%q,"root":"r","target":%q,"code":0}'`, filepath.Join(dir, f), target))
				}
			}
			program := filepath.Join(dir, "carload")
			script := "#!/bin/sh\ncat >/dev/null\n" + strings.Join(says[:tt.lines], "\n") + "\nkill -9 $$\n"
			if err := os.WriteFile(program, []byte(script), 0o700); err != nil { //nolint:gosec // it is run
				t.Fatal(err)
			}
			c := &runner.Carload{Program: program, Sources: map[string]string{"data": dir}, To: []string{"home", "shelf"}}
			r, err := c.Run(t.Context(), fleet.Job{Source: "data", Files: files}, make(chan struct{}), func(fleet.Progress) {})
			if (err == nil) != tt.done || tt.done && len(r.Files) != 4 {
				t.Errorf("%d outcomes, %v", len(r.Files), err)
			}
		})
	}
}
