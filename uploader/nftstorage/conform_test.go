package nftstorage_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/targettest"
)

// TestTarget runs the tests that every target must pass, with our own service.
func TestTarget(t *testing.T) {
	t.Parallel()
	st, err := store.Open(t.Context(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	svc, err := service.New(t.Context(), st, service.Options{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(svc.Handler())
	t.Cleanup(func() {
		srv.Close()
		if err := errors.Join(svc.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	_, key, err := st.CreateKey(t.Context(), store.KeyOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	client := func(secret string) func(testing.TB, string) uploader.Target {
		return func(tb testing.TB, url string) uploader.Target {
			token, err := nftstorage.NewToken(secret)
			if err != nil {
				tb.Fatal(err)
			}
			target, err := nftstorage.New(nftstorage.Options{Endpoint: url, Token: token})
			if err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() { _ = target.Close() })
			return target
		}
	}
	targettest.Run(t, targettest.Subject{
		URL: srv.URL, Open: client(key), Stranger: client("another"),
		Read: func(tb testing.TB, root cid.Cid) []byte {
			req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, srv.URL+"/ipfs/"+root.String(), nil)
			if err != nil {
				tb.Fatal(err)
			}
			resp, err := srv.Client().Do(req)
			if err != nil {
				tb.Fatal(err)
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			if err != nil {
				tb.Fatal(err)
			}
			return data
		},
	})
}
