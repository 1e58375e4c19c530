package natsqueue_test

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

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
