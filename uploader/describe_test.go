package uploader_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
)

// closes counts the calls of Close.
type closes struct {
	uploader.Input
	n int
}

func (c *closes) Close() error {
	c.n++
	return c.Input.Close()
}

// A describer reports about files and directories what an upload would, and
// closes its inputs.
func TestDescriber(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, size := range map[string]int{"a": 3 << 20, "b": 10} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var told []uploader.Event
	d, err := uploader.NewDescriber(uploader.Options{MaxUploadBytes: 4 << 20, MaxShardBytes: 2 << 20, Observer: observerFunc(func(e uploader.Event) { told = append(told, e) })})
	if err != nil {
		t.Fatal(err)
	}
	for path, entries := range map[string]int{dir: 2, filepath.Join(dir, "a"): 0} {
		in, err := uploader.Path(path, chunker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		counted := &closes{Input: in}
		var plan *splitter.Plan
		r, err := d.Describe(t.Context(), counted, func(dag uploader.DAG) error {
			n := 0
			for range dag.(*chunker.DAG).Entries() { //nolint:forcetypeassert // it is one
				n++
			}
			if n != entries || counted.n != 0 {
				t.Errorf("%s: %d entries, closed %d times", path, n, counted.n)
			}
			var err error
			plan, err = d.Split(in.Name(), dag)
			return err
		})
		if err != nil || counted.n != 1 || r.Name != path || r.Root != r.DAG.Root() || r.Bytes < 3<<20 || plan == nil || len(plan.Shards) < 1 {
			t.Errorf("%+v, %v, closed %d times, plan %v", r, err, counted.n, plan)
		}
	}
	if len(told) != 4 {
		t.Errorf("events: %v", told)
	}
	if p := d.Progress(); p.Inputs != 2 || p.InputsDone != 2 || p.BytesHashed != p.BytesToHash || p.BytesHashed != 6<<20+10 {
		t.Errorf("progress: %+v", p)
	}

	large := filepath.Join(dir, "large")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, 5<<20)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{large, dir} {
		in, err := uploader.Path(path, chunker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		counted := &closes{Input: in}
		_, err = d.Describe(t.Context(), counted, func(uploader.DAG) error { return errors.New("it was taken") })
		if !errors.Is(err, uploader.ErrTooLarge) || counted.n != 1 {
			t.Errorf("%s: %v, closed %d times", path, err, counted.n)
		}
	}
	if _, err := uploader.Path(filepath.Join(dir, "none"), chunker.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}
