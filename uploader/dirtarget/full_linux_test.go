package dirtarget_test

import (
	"os/signal"
	"syscall"
	"testing"

	"github.com/carload/carload/uploader/dirtarget"
)

// TestWriteError makes the system refuse to write beyond the middle of a shard,
// as on a full disk. Nothing of the shard is left. When there is space again,
// it is written normally.
func TestWriteError(t *testing.T) {
	plan, want := makePlan(t)
	dir := t.TempDir()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	// The signal that comes with the error would end the process.
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	low := limit
	low.Cur = 1 << 20
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &low); err != nil {
		t.Fatal(err)
	}
	err := send(t, dir, plan, dirtarget.Options{})
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	wantFinal(t, err, syscall.EFBIG)
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("the directory has %q", got)
	}
	if err := send(t, dir, plan, dirtarget.Options{}); err != nil {
		t.Fatal(err)
	}
	wantShards(t, dir, want)
}
