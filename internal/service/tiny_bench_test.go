package service_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
)

// BenchmarkTinyUpload sends uploads of two blocks over 8 connections.
func BenchmarkTinyUpload(b *testing.B) {
	s := newServer(b, options{})
	bodies := make([][]byte, b.N)
	for i := range bodies {
		leaf := raw(fmt.Sprint("leaf ", i))
		bodies[i] = carOf(pbNode("root", []cid.Cid{leaf.CID}...), leaf)
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 8 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(bodies) {
					return
				}
				if _, err := send(b.Context(), s.http.URL, s.token, bodies[i]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "uploads/s")
	http.DefaultClient.CloseIdleConnections()
}
