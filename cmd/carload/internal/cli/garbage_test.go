package cli

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestPercentOfGarbage(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 8 << 20: 100, 16 << 20: 50, 100 << 20: 30, 1 << 50: 30} {
		if got := littleGarbage.percentFor(live); got != want {
			t.Errorf("%d bytes: %d %%, want %d", live, got, want)
		}
	}
}

// The percentage follows the heap until restore, and no longer.
func TestGarbageLimit(t *testing.T) {
	t.Setenv("GOGC", "")
	was := debug.SetGCPercent(77)
	defer debug.SetGCPercent(was)
	now := func() int {
		p := debug.SetGCPercent(50)
		debug.SetGCPercent(p)
		return p
	}
	restore := littleGarbage.limit()
	buf := make([]byte, 100<<20)
	for now() != littleGarbage.percent { // the test's deadline ends this
		runtime.GC()
	}
	runtime.KeepAlive(buf)
	restore()
	for range 3 {
		runtime.GC()
		if p := now(); p != 77 {
			t.Fatalf("%d %%", p)
		}
	}
}
