package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	pb "github.com/ipfs/boxo/ipld/unixfs/pb"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/internal/service/gateway"
)

// The expected replies are those of net/http serving the same bytes, except
// where RFC 9110 differs: a suffix of zero bytes can't be satisfied (14.1.2),
// and an unknown unit is ignored (14.2). If there are several ranges, boxo
// serves the first.
func TestRanges(t *testing.T) {
	t.Parallel()
	const chunk = 1 << 10
	m := newMemory()
	b := made{m, t}
	type content struct {
		name string
		cid  cid.Cid
		data []byte
	}
	var all []content
	for _, size := range []int{0, 1, 14, chunk - 1, chunk, chunk + 1, 3 * chunk, 7*chunk + 5} {
		data := noise(size, size)
		all = append(
			all,
			content{"raw leaves", b.file(data, chunk, 2, true).Cid(), data},
			content{"old leaves", b.file(data, chunk, 2, false).Cid(), data},
			content{"raw block", b.add(merkledag.NewRawNode(data)).Cid(), data},
			content{"raw type", b.add(typed(ft.TRaw, data)).Cid(), data},
		)
		if size < 100 {
			all = append(
				all,
				content{"inlined node", inlined(cid.DagProtobuf, typed(ft.TFile, data).RawData()), data},
				content{"inlined", inlined(cid.Raw, data), data},
			)
		}
	}
	s := server(t, m, gateway.Options{})
	for _, c := range all {
		n := len(c.data)
		ranges := []string{
			"", "bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-500", "bytes=-14", "bytes=-100000", "bytes=-0", "bytes=5-3", "bytes=a-b", "bytes=",
			"bytes=-", "bytes=--1", "bytes=1", "lines=0-1", "bytes=0-99999999999999999999", "bytes=99999999999999999999-", "bytes= 0-0 , 5-6",
			"bytes=0-0,-1", "bytes=900000-900001,0-1", "BYTES=0-0",
			fmt.Sprintf("bytes=%d-", n), fmt.Sprintf("bytes=%d-", n-1), fmt.Sprintf("bytes=0-%d", n-1), fmt.Sprintf("bytes=0-%d", n),
			fmt.Sprintf("bytes=%d-%d", n/2, n/2+3), fmt.Sprintf("bytes=-%d", n), fmt.Sprintf("bytes=-%d", n+1),
			fmt.Sprintf("bytes=%d-%d", chunk-1, chunk), fmt.Sprintf("bytes=%d-%d", chunk, 2*chunk-1), fmt.Sprintf("bytes=%d-%d", chunk+3, chunk+3),
		}
		for _, rng := range ranges {
			name := fmt.Sprintf("%s of %d, %q", c.name, n, rng)
			want := expected(t, c.data, rng)
			get := ask(t, s, "GET", "/ipfs/"+c.cid.String(), "Range", rng)
			if get.err != nil || get.status != want.status || want.status < 300 && !bytes.Equal(get.body, want.body) {
				t.Errorf("%s: %d, %d bytes, %v; want %d, %d bytes", name, get.status, len(get.body), get.err, want.status, len(want.body))
			}
			if got := get.header.Get("Content-Range"); got != want.header.Get("Content-Range") {
				t.Errorf("%s: Content-Range %q, want %q", name, got, want.header.Get("Content-Range"))
			}
			head := ask(t, s, "HEAD", "/ipfs/"+c.cid.String(), "Range", rng)
			if head.status != get.status || len(head.body) != 0 {
				t.Errorf("%s: HEAD %d, GET %d", name, head.status, get.status)
			}
			if head.header.Get("Content-Range") != get.header.Get("Content-Range") {
				t.Errorf("%s: Content-Range is %q for HEAD", name, head.header.Get("Content-Range"))
			}
			if get.status >= 300 {
				continue
			}
			for _, h := range []string{"Content-Length", "Content-Type", "Etag", "Cache-Control", "Accept-Ranges", "X-Ipfs-Path"} {
				if head.header.Get(h) != get.header.Get(h) {
					t.Errorf("%s: %s is %q for HEAD, %q for GET", name, h, head.header.Get(h), get.header.Get(h))
				}
			}
		}
	}
}

// expected returns the reply according to net/http and the RFC.
func expected(t *testing.T, data []byte, rng string) answer {
	unit, set, _ := strings.Cut(rng, "=")
	switch {
	case rng == "":
	case set == "5-3", set == "0--1":
		return answer{status: 416} // not a range; for an empty file, net/http does not check that
	case unit != "" && !strings.EqualFold(unit, "bytes"):
		rng = ""
	case unit == "BYTES": // units are case-insensitive, but not in net/http
		rng = "bytes=" + set
	case set == "-0" && len(data) > 0:
		rng = fmt.Sprintf("bytes=%d-", len(data))
	case strings.HasPrefix(set, "-") && len(data) == 0 && strings.Trim(set[1:], "0123456789") == "" && set != "-":
		rng = "" // net/http would answer 206 and bytes 0--1
	case strings.Contains(set, ","):
		specs := strings.Split(set, ",")
		for _, s := range specs {
			if a := expected(t, data, "bytes="+strings.TrimSpace(s)); a.status == 206 || len(data) == 0 {
				return a
			}
		}
	case set == "":
		return answer{status: 416} // net/http takes it for no range
	}
	s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(data))
	}))
	defer s.Close()
	if strings.Contains(set, "99999999999999999999") { // too large for net/http
		rng = strings.ReplaceAll(rng, "99999999999999999999", "9223372036854775806")
	}
	return ask(t, s, "GET", "/", "Range", rng)
}

func typed(typ pb.Data_DataType, data []byte) ipld.Node {
	n := ft.NewFSNode(typ)
	n.SetData(data)
	p, err := n.GetBytes()
	if err != nil {
		panic(err)
	}
	return merkledag.NodeWithData(p)
}

func inlined(codec uint64, data []byte) cid.Cid {
	mh, err := multihash.Encode(data, multihash.IDENTITY)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, mh)
}
