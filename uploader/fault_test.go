package uploader_test

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/carload/carload/uploader/uploadertest"
)

// waitClock closes a channel when somebody waits, and never ends the wait.
type waitClock struct{ waiting chan struct{} }

func (waitClock) Now() time.Time { return time.Unix(1e9, 0) }

func (c waitClock) Sleep(ctx context.Context, _ time.Duration) error {
	close(c.waiting)
	<-ctx.Done()
	return context.Cause(ctx)
}

// gate reads the body, waits, calls f, and then serves the request.
func gate(wait <-chan struct{}, f func()) uploadertest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var once sync.Once
		r.Body = readHook{r.Body, func() { once.Do(func() { <-wait; f() }) }}
		next.ServeHTTP(w, r)
	}
}

// tickBody calls f for each read of a body.
func tickBody(f func()) uploadertest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Body = readHook{r.Body, f}
		next.ServeHTTP(w, r)
	}
}

type readHook struct {
	io.ReadCloser
	f func()
}

func (h readHook) Read(p []byte) (int, error) {
	h.f()
	return h.ReadCloser.Read(p)
}
