package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Each path belongs to exactly one part, and the parts have about the same
// size.
func TestPartsDivide(t *testing.T) {
	t.Parallel()
	const parts, paths = 16, 16_000
	var sizes [parts]int
	for n := range paths {
		path, takers := fmt.Sprintf("videos/%d.mp4", n), 0
		for i := range parts {
			p := part{index: i, count: parts}
			if p.takes(path) {
				takers++
				sizes[i]++
			}
			if p.takes(path) != p.takes("./"+path) {
				t.Fatalf("%s is of another part when it is written with ./", path)
			}
		}
		if takers != 1 {
			t.Fatalf("%s is of %d parts", path, takers)
		}
	}
	for i, n := range sizes {
		if n < paths/parts*8/10 || n > paths/parts*12/10 {
			t.Errorf("part %d has %d of %d paths", i+1, n, paths)
		}
	}
}

func TestPartOfAnArrayJob(t *testing.T) {
	t.Parallel()
	slurm := environment{
		"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4",
	}
	for _, row := range []struct {
		text         string
		env          environment
		index, count int // -1 for an error
	}{
		{"3/16", nil, 2, 16},
		{"16/16", nil, 15, 16},
		{"auto/4", environment{"JOB_COMPLETION_INDEX": "3"}, 3, 4},
		{"auto/4", environment{"JOB_COMPLETION_INDEX": "4"}, -1, 0},
		{"auto", environment{"JOB_COMPLETION_INDEX": "3"}, -1, 0},
		{"auto/4", environment{"JOB_COMPLETION_INDEX": "x"}, -1, 0},
		{"auto", slurm, 2, 4},
		{"auto/3", slurm, 2, 3},
		{"auto/2", slurm, -1, 0},
		{"auto/4", nil, -1, 0},
	} {
		var p part
		if err := p.Set(row.text); err != nil {
			t.Errorf("%s: %v", row.text, err)
			continue
		}
		err := p.resolve(row.env)
		if row.index < 0 {
			if err == nil {
				t.Errorf("%s with %v: no error", row.text, row.env)
			}
		} else if err != nil || p.index != row.index || p.count != row.count {
			t.Errorf("%s with %v: part %d of %d, %v", row.text, row.env, p.index, p.count, err)
		}
	}
	for _, bad := range []string{"", "3", "0/16", "17/16", "-1/4", "1/0", "1/x", "auto/0", "/4", "1/99999999999"} {
		if err := new(part).Set(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// All hosts together never exceed the limit of the token.
func TestRateShare(t *testing.T) {
	t.Parallel()
	for hosts := 1; hosts <= 30; hosts++ {
		var s share
		if err := s.Set(fmt.Sprintf("1/%d", hosts)); err != nil {
			t.Fatal(err)
		}
		n, err := s.of(30)
		if err != nil || n < 1 || n*hosts > 30 {
			t.Errorf("%d hosts with %d of 30 requests each, %v", hosts, n, err)
		}
	}
	var s share
	if err := s.Set("1/31"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.of(30); err == nil {
		t.Errorf("31 hosts share 30 requests with %d each", n)
	}
	for _, bad := range []string{"", "1", "0/3", "4/3", "1/0", "x/2", "1/2/3"} {
		if err := new(share).Set(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A share in a file is read again each time, and may be zero or less than one
// request.
func TestRateShareInAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "share")
	var s share
	if err := s.Set("@" + file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.now(30, 10*time.Second); err == nil {
		t.Error("the file is not there, and it is no error")
	}
	for text, want := range map[string]struct {
		n      int
		within time.Duration
	}{"1/1": {30, 10 * time.Second}, "1/4\n": {7, 10 * time.Second}, "0/1": {0, 10 * time.Second}, "1/90": {1, 30 * time.Second}, "x": {}, "": {}} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n, within, err := s.now(30, 10*time.Second)
		if n != want.n || within != want.within || (err != nil) != (want.within == 0) {
			t.Errorf("%q: %d in %s, %v", text, n, within, err)
		}
	}
}
