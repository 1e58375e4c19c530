package bulk_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/carload/carload/internal/bulk"
)

// A reply that comes byte by byte, without ever stalling, is given up when it
// has taken longer than the stall time. A faster reply is read to its end.
func TestCrawlingReply(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		bytes  int // per piece
		pieces int // 0 for endlessly many
	}{"crawls": {1, 0}, "is slow": {100, 60}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				tick := time.NewTicker(20 * time.Millisecond)
				defer tick.Stop()
				for i := 0; tt.pieces == 0 || i < tt.pieces; i++ {
					select {
					case <-tick.C:
					case <-r.Context().Done():
						return
					}
					if _, err := w.Write(make([]byte, tt.bytes)); err != nil {
						return
					}
					_ = http.NewResponseController(w).Flush()
				}
			}))
			defer srv.Close()
			ctx, dog, stop := bulk.Watch(t.Context(), 400*time.Millisecond)
			defer stop()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			client := bulk.NewClient(bulk.NewTransport(), bulk.Secret{}, "test")
			defer client.Close()
			resp, err := client.Send(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, dog.Reply(resp.Body))
			if err != nil {
				err = client.Failed(ctx, "read the reply", err)
			}
			var gaveUp *bulk.Stalled
			var network *bulk.NetworkError
			switch {
			case tt.pieces > 0 && (err != nil || n != int64(tt.bytes*tt.pieces)):
				t.Errorf("%d bytes, %v", n, err)
			case tt.pieces == 0 && (!errors.As(err, &gaveUp) || !gaveUp.Crawls || !errors.As(err, &network)):
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}
