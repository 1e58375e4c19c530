package dirtarget_test

import (
	"testing"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/targettest"
)

// TestTarget runs the tests that every target must pass.
func TestTarget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	targettest.Run(t, targettest.Subject{
		Open: func(tb testing.TB, _ string) uploader.Target {
			target, err := dirtarget.New(dir, dirtarget.Options{})
			if err != nil {
				tb.Fatal(err)
			}
			return target
		},
		Lacks: []string{"authorization", "status", "listing", "clock", "latency", "deleting"},
	})
}
