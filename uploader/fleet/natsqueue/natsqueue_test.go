package natsqueue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/embedded"
	"github.com/carload/carload/uploader/fleet/fleettest"
	"github.com/carload/carload/uploader/fleet/natsqueue"
)

func TestMain(m *testing.M) {
	// The server has goroutines of the process: a clock, and its signals.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// start starts a server and connects to it.
func start(t *testing.T) *nats.Conn {
	t.Helper()
	s, err := embedded.Start(embedded.Options{Name: "one", Dir: filepath.Join(t.TempDir(), "nats"), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	nc, err := nats.Connect(s.URL(), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestQueue(t *testing.T) {
	t.Parallel()
	nc := start(t)
	var n atomic.Int64
	fleettest.Run(t, func(t *testing.T, lease time.Duration) fleettest.Queue {
		q, err := natsqueue.Create(t.Context(), nc, natsqueue.Options{Name: fmt.Sprintf("fleet%d", n.Add(1)), Lease: lease})
		if err != nil {
			t.Fatal(err)
		}
		return q
	})
}

func create(t *testing.T, nc *nats.Conn, name string, lease time.Duration) *natsqueue.Queue {
	t.Helper()
	q, err := natsqueue.Create(t.Context(), nc, natsqueue.Options{Name: name, Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// A worker keeps fields of a job that it does not know.
func TestUnknownFieldStays(t *testing.T) {
	t.Parallel()
	nc := start(t)
	q := create(t, nc, "f", time.Minute)
	j := fleettest.Job("a")
	if _, err := q.Put(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), "f-index")
	if err != nil {
		t.Fatal(err)
	}
	id := string(j.ID())
	e, err := kv.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(e.Value()), `"job":{`, `"job":{"mood":"blue",`, 1)
	if _, err := kv.Update(t.Context(), id, []byte(newer), e.Revision()); err != nil {
		t.Fatal(err)
	}
	l, err := q.Claim(t.Context(), fleet.Worker{Host: "one", Sources: []string{"data"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Renew(t.Context(), fleet.Progress{Moved: 1}), l.Complete(t.Context(), fleet.Receipt{Host: "one"})); err != nil {
		t.Fatal(err)
	}
	if e, err = kv.Get(t.Context(), id); err != nil || !strings.Contains(string(e.Value()), `"mood":"blue"`) || !strings.Contains(string(e.Value()), `"state":"done"`) {
		t.Errorf("%s, %v", e.Value(), err)
	}
}

// If a submission was killed between the record and the message, the next one
// adds the message. A message without a record does no harm.
func TestHalfPut(t *testing.T) {
	t.Parallel()
	nc := start(t)
	q := create(t, nc, "f", time.Minute)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), "f-index")
	if err != nil {
		t.Fatal(err)
	}
	j := fleettest.Job("a")
	p, err := json.Marshal(map[string]any{"job": j, "state": fleet.Queued, "since": time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), string(j.ID()), p); err != nil {
		t.Fatal(err)
	}
	if n, err := q.Waiting(t.Context()); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	if _, err := js.Publish(t.Context(), "f-jobs.data.any.0123456789abcdef0123456789abcdef", nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if added, err := q.Put(t.Context(), j); err != nil || added {
			t.Fatal(added, err)
		}
	}
	if n, err := q.Waiting(t.Context()); err != nil || n != 2 {
		t.Fatal(n, err)
	}
	w := fleet.Worker{Host: "one", Sources: []string{"data"}}
	l, err := q.Claim(t.Context(), w)
	if err != nil || l.ID() != j.ID() {
		t.Fatal(l, err)
	}
	if err := l.Complete(t.Context(), fleet.Receipt{Host: "one"}); err != nil {
		t.Fatal(err)
	}
	if n, err := q.Waiting(t.Context()); err != nil || n != 0 {
		t.Errorf("%d messages are left, %v", n, err)
	}
}

// A missing fleet is reported as such. A fleet that was wiped and created again
// has nothing from before: what an old worker acknowledges does not count.
func TestWipe(t *testing.T) {
	t.Parallel()
	nc := start(t)
	if _, err := natsqueue.Open(t.Context(), nc, natsqueue.Options{Name: "f"}); !errors.Is(err, natsqueue.ErrNoFleet) {
		t.Errorf("error %v", err)
	}
	q := create(t, nc, "f", time.Minute)
	w := fleet.Worker{Host: "one", Sources: []string{"data"}}
	put := func(q *natsqueue.Queue) {
		for _, name := range []string{"a", "b", "c"} {
			if added, err := q.Put(t.Context(), fleettest.Job(name)); err != nil || !added {
				t.Fatal(added, err)
			}
		}
	}
	put(q)
	old, err := q.Claim(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	brief, end := context.WithTimeout(t.Context(), time.Second)
	defer end()
	if err := old.Complete(brief, fleet.Receipt{Host: "old"}); err == nil {
		t.Error("what was wiped takes a record")
	}
	again := create(t, nc, "f", time.Minute)
	put(again)
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_ = old.Retry(short, 0, errors.New("ghost")) // it may or may not be told; it must not count
	for range 3 {                                // by the handle of before, which has to find its way
		l, err := q.Claim(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attempt() != 1 {
			t.Errorf("attempt %d", l.Attempt())
		}
		if err := l.Complete(t.Context(), fleet.Receipt{Host: "one"}); err != nil {
			t.Fatal(err)
		}
	}
	for r, err := range again.Records(t.Context()) {
		if err != nil || r.State != fleet.Done || r.Receipt.Host != "one" {
			t.Errorf("%+v, %v", r, err)
		}
	}
}
