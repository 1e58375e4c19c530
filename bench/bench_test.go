package bench_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/carload/carload/bench"
)

var size = flag.Int64("bench.bytes", 256<<20, "length of the file to measure with")

// If this variable is set, the test binary runs one stage instead of tests,
// because Run measures processes.
const stageVariable = "CARLOAD_BENCH_STAGE"

func TestMain(m *testing.M) {
	if stage := os.Getenv(stageVariable); stage != "" {
		var j bench.Job
		err := json.Unmarshal([]byte(os.Getenv("CARLOAD_BENCH_JOB")), &j)
		if err == nil {
			err = bench.RunStage(context.Background(), stage, j, os.Stdout)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// randomFile makes a file of incompressible bytes, always the same.
func randomFile(tb testing.TB, n int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "file")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	r := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for left := n; left > 0; left -= int64(len(buf)) {
		buf = buf[:min(left, int64(len(buf)))]
		if _, err := r.Read(buf); err != nil {
			tb.Fatal(err)
		}
		if _, err := f.Write(buf); err != nil {
			tb.Fatal(err)
		}
	}
	return path
}

func sink(tb testing.TB) string {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	urls, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- bench.ServeSink(ctx, func(url string) { urls <- url }) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return <-urls
}

func job(tb testing.TB, bytes int64) bench.Job {
	return bench.Job{Path: randomFile(tb, bytes), Dir: tb.TempDir(), SinkURL: sink(tb), Transfers: 4}
}

func TestRunMeasuresEveryStageAndComparesThem(t *testing.T) {
	t.Parallel()
	const bytes = 9<<20 + 12345
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rep, err := bench.Run(context.Background(), bench.Options{
		Job:    job(t, bytes),
		Rounds: 2,
		Exec: func(ctx context.Context, stage string, j bench.Job) *exec.Cmd {
			p, err := json.Marshal(j)
			if err != nil {
				t.Error(err)
			}
			cmd := exec.CommandContext(ctx, exe)
			cmd.Env = append(os.Environ(), stageVariable+"="+stage, "CARLOAD_BENCH_JOB="+string(p))
			return cmd
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rep.Rows {
		if row.Median <= 0 || row.Rate <= 0 || len(row.Seconds) != 2 {
			t.Errorf("stage %q has the row %+v", row.Stage, row)
		}
	}
	if n := len(bench.Stages()) - 1; len(rep.Rows) != n { // without "up", which needs a service
		t.Errorf("%d rows, want %d", len(rep.Rows), n)
	}
	if rep.Bytes != bytes {
		t.Errorf("report of %d bytes, want %d", rep.Bytes, bytes)
	}
}

func TestAStageThatFailsIsReported(t *testing.T) {
	t.Parallel()
	for _, s := range bench.Stages() {
		if _, err := s.Run(context.Background(), bench.Job{Path: filepath.Join(t.TempDir(), "none"), Dir: t.TempDir(), Transfers: 1}); err == nil {
			t.Errorf("stage %q succeeded without a file", s.Name)
		}
	}
}

func BenchmarkStage(b *testing.B) {
	j := job(b, *size)
	for _, s := range bench.Stages() {
		if s.Service {
			continue
		}
		b.Run(s.Name, func(b *testing.B) {
			b.SetBytes(*size)
			b.ReportAllocs()
			for b.Loop() {
				j.Dir = b.TempDir()
				o, err := s.Run(context.Background(), j)
				if err != nil {
					b.Fatal(err)
				}
				if o.Bytes != *size {
					b.Fatalf("%d bytes, want %d", o.Bytes, *size)
				}
			}
		})
	}
}
