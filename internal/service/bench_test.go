package service_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"runtime"
	"testing"

	"github.com/ipfs/go-cid"
)

// BenchmarkUpload sends shards of 95 MB over loopback, with large and with
// small leaves. All blocks are new.
func BenchmarkUpload(b *testing.B) {
	for _, size := range []int{1 << 20, 256 << 10, 1 << 10} {
		b.Run(fmt.Sprintf("leaves of %d", size), func(b *testing.B) {
			s := newServer(b, options{})
			payload := make([]byte, size)
			count, n := 95<<20/(size+40), 0
			for b.Loop() {
				b.StopTimer()
				leaves := make([]block, count)
				links := make([]cid.Cid, min(count, 1000))
				for i := range leaves {
					n++
					binary.BigEndian.PutUint64(payload, uint64(n))
					leaves[i] = blockOf(cid.Raw, bytes.Clone(payload))
					if i < len(links) {
						links[i] = leaves[i].CID
					}
				}
				shard := carOf(append([]block{pbNode("root", links...)}, leaves...)...)
				b.SetBytes(int64(len(shard)))
				b.StartTimer()
				if a := s.putCAR(shard); a.status != http.StatusOK {
					b.Fatalf("%d %s", a.status, a.raw)
				}
			}
			runtime.GC()
		})
	}
}
