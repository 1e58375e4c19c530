package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/natsqueue"
)

// play is a process of TestManyJobs: it puts jobs into the queue, or is a
// worker whose target discards.
func play(role string) error {
	nc, err := nats.Connect(os.Getenv("FLEET_TEST_URL"), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx := context.Background()
	q, err := natsqueue.Open(ctx, nc, natsqueue.Options{})
	if err != nil {
		return err
	}
	if role == "submit" {
		n, err := strconv.Atoi(os.Getenv("FLEET_TEST_JOBS"))
		if err != nil {
			return err
		}
		var g errgroup.Group
		g.SetLimit(256)
		for i := range n {
			g.Go(func() error {
				_, err := q.Put(ctx, fleet.Job{V: 1, Source: "data", Files: []fleet.File{{Path: fleet.Path(fmt.Sprintf("2026/archive/of/files/%09d.bin", i)), Bytes: 1 << 30, MTime: int64(i)}}})
				return err
			})
		}
		return g.Wait()
	}
	return fleet.Work(ctx, q, q, discard{}, fleet.Options{Worker: fleet.Worker{Host: role, Sources: []string{"data"}}, Slots: 64, Lease: q.Lease()})
}

// discard does nothing, immediately.
type discard struct{}

func (discard) Run(_ context.Context, j fleet.Job, _ <-chan struct{}, _ func(fleet.Progress)) (fleet.Receipt, error) {
	return fleet.Receipt{Files: []fleet.FileReceipt{{Bytes: j.Bytes(), Root: "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", Verified: "pinned", Shards: 11}}}, nil
}

// memory returns the peak and the current memory of a process, in bytes.
func memory(t *testing.T, pid int) (peak, now int64) {
	t.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("there is no /proc")
	}
	field := func(name string) int64 {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(p)
		if m == nil {
			return 0
		}
		n, _ := strconv.ParseInt(string(m[1]), 10, 64)
		return n << 10
	}
	return field("VmHWM"), field("VmRSS")
}

// Very many jobs go in, through a submission that is killed and started again,
// and out, by a worker whose memory does not grow.
func TestManyJobs(t *testing.T) {
	jobs := 2000
	if s := os.Getenv("CARLOAD_TEST_JOBS"); s != "" {
		var err error
		if jobs, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	} else if os.Getenv("CARLOAD_TEST_LONG") != "" {
		jobs = 1_000_000
	}
	w := &world{t: t, dir: t.TempDir(), lease: time.Minute}
	w.startQueue(1)
	q := w.connect()
	begin := func(role string) *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "FLEET_TEST_ROLE="+role, "FLEET_TEST_URL="+w.urls[0], fmt.Sprint("FLEET_TEST_JOBS=", jobs))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd
	}
	waiting := func() int {
		n, err := q.Waiting(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	begun := time.Now()
	first := begin("submit")
	wait(t, "a part of the jobs is there", 30*time.Minute, func() bool { return waiting() >= jobs/3 })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it was killed
	partly, part := waiting(), time.Since(begun)
	second := begin("submit")
	if err := second.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := waiting(); n != jobs {
		t.Fatalf("%d jobs are there, want %d", n, jobs)
	}
	server := w.servers[0].cmd.Process.Pid
	full, _ := memory(t, server)
	t.Logf("submitted: %.0f jobs a second; server: %d MiB", float64(partly)/part.Seconds(), full>>20)

	begun = time.Now()
	worker := begin("w")
	wait(t, "a tenth is done", 30*time.Minute, func() bool { return waiting() <= jobs*9/10 })
	_, early := memory(t, worker.Process.Pid)
	wait(t, "all is done", 2*time.Hour, func() bool { return waiting() == 0 })
	took := time.Since(begun)
	peak, late := memory(t, worker.Process.Pid)
	most, _ := memory(t, server)
	t.Logf("drained: %.0f jobs a second; worker: %d MiB after a tenth, %d at the end, %d at most; server: %d MiB", float64(jobs)/took.Seconds(), early>>20, late>>20, peak>>20, most>>20)
	if limit := int64(64 << 20); peak > limit && !raceEnabled {
		t.Errorf("the worker has had %d MiB", peak>>20)
	}
	n := 0
	for r, err := range q.Records(t.Context()) {
		if err != nil || r.State != fleet.Done || r.Attempt != 1 {
			t.Fatalf("%+v, %v", r, err)
		}
		n++
	}
	if n != jobs {
		t.Errorf("%d records", n)
	}
}
