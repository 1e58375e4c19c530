package uploader_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// TestSlowLine: the line takes much longer to empty the system's buffer than a
// request may stall. A slow request that moves is not given up.
func TestSlowLine(t *testing.T) {
	t.Parallel()
	store := uploadertest.NewStore("test-token")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		r.Body = readHook{r.Body, func() { <-tick.C }}
		store.ServeHTTP(w, r)
	}))
	// A small window: the line accepts no more than the server has read.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var opt error
		err := c.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) })
		if err == nil {
			err = opt
		}
		return err
	}}
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	token, err := nftstorage.NewToken("test-token")
	if err != nil {
		t.Fatal(err)
	}
	const stall = 1500 * time.Millisecond
	target, err := nftstorage.New(nftstorage.Options{Endpoint: srv.URL, Token: token, Stall: stall})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	start := time.Now()
	obs := observerFunc(func(e uploader.Event) {
		if r, ok := e.(uploader.Retrying); ok {
			t.Error(r.Err)
		}
	})
	u := newUploader(t, target, uploader.Options{MaxShardBytes: 1_000_000, Observer: obs})
	if _, err := uploadOne(t.Context(), u, input(t, randomFile(t, fileBytes, 1))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 2*stall {
		t.Errorf("it took %s, which shows nothing", took)
	}
}
