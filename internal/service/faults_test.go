package service_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"
)

// bigFile is a file with leaves of 64 KiB, in shards of so many leaves each.
func bigFile(t *testing.T, s *server, leaves, perShard int) (root block, content []byte) {
	t.Helper()
	const size = 64 << 10
	var all []block
	msg := []byte{8, 2, 0x18}
	msg = binary.AppendUvarint(msg, uint64(leaves*size))
	var links []byte
	for i := range leaves {
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(i*7 + j*j>>5 + j*(1+i>>8)) // all leaves are different
		}
		content = append(content, data...)
		leaf := blockOf(cid.Raw, data)
		all = append(all, leaf)
		msg = binary.AppendUvarint(append(msg, 0x20), size)
		l := append([]byte{0x0a, byte(leaf.CID.ByteLen())}, leaf.CID.Bytes()...)
		l = append(l, 0x12, 0, 0x18)
		l = binary.AppendUvarint(l, size)
		links = append(append(links, 0x12, byte(len(l))), l...)
	}
	node := append(links, 0x0a)
	node = append(binary.AppendUvarint(node, uint64(len(msg))), msg...)
	root = blockOf(cid.DagProtobuf, node)
	for from := 0; from < leaves; from += perShard {
		u := s.putCAR(carOf(append([]block{root}, all[from:min(from+perShard, leaves)]...)...)).upload(t)
		if u.CID != root.CID.String() {
			t.Fatal(u)
		}
	}
	return root, content
}

// fetch reads a body as far as it comes.
func (s *server) fetch(path string, header ...string) (status int, body []byte, err error) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.http.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.http.Client().Do(req)
	if err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(res.Body)
	return res.StatusCode, body, errors.Join(err, res.Body.Close())
}

// Shards are damaged while their upload is being served. The client must see a
// broken transfer or an error, but never wrong bytes with a clean end. If
// another shard has a good copy, the client notices nothing.
func TestGatewayOverDamagedShards(t *testing.T) {
	t.Parallel()
	harms := map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 300_000) },
		"flipped": func(path string) error {
			p, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			p[len(p)-100_000] ^= 1
			return os.WriteFile(path, p, 0o600)
		},
		"deleted": os.Remove,
		"unreadable": func(path string) error {
			// The lowest addresses of a process can't be read: EIO.
			return errors.Join(os.Remove(path), os.Symlink("/proc/self/mem", path))
		},
	}
	for name, harm := range harms {
		for _, second := range []bool{false, true} {
			dir := t.TempDir()
			s := newServer(t, options{Dir: dir})
			root, content := bigFile(t, s, 160, 40)
			if second { // another set of shards with the same leaves
				bigFile(t, s, 160, 50)
			}
			path := "/ipfs/" + root.CID.String()
			_, archive, err := s.fetch(path + "?format=car")
			if err != nil {
				t.Fatal(err)
			}
			parts, err := filepath.Glob(filepath.Join(dir, "shards", "*", "*.car"))
			if err != nil {
				t.Fatal(err)
			}
			var victim string // a shard of the first set with leaves from the middle
			for _, p := range parts {
				if data, err := os.ReadFile(p); err == nil && bytes.Contains(data, content[100*64<<10:101*64<<10]) && (victim == "" || len(data) < 45*64<<10) {
					victim = p
				}
			}
			s.close() // closes all open files
			s = newServer(t, options{Dir: dir})
			if err := harm(victim); err != nil {
				t.Fatal(err)
			}
			for _, row := range []struct {
				query, rng string
				want       []byte
			}{
				{"", "", content},
				{"", "bytes=4000000-9000000", content[4000000:9000001]},
				{"?format=car", "", archive},
				{"", "bytes=100-200000", content[100:200001]},
			} {
				header := []string{}
				if row.rng != "" {
					header = []string{"Range", row.rng}
				}
				status, body, err := s.fetch(path+row.query, header...)
				whole := bytes.Equal(body, row.want)
				switch {
				case err == nil && status/100 == 2 && !whole:
					t.Errorf("%s: %s %s: %d, %d other bytes and a clean end", name, row.query, row.rng, status, len(body))
				case second && (status/100 != 2 || !whole):
					t.Errorf("%s: %s %s: %d %v with a good copy", name, row.query, row.rng, status, err)
				case err != nil && !bytes.HasPrefix(row.want, body):
					t.Errorf("%s: %s %s: other bytes before the end", name, row.query, row.rng)
				case !second && whole && row.rng != "bytes=100-200000":
					t.Errorf("%s: %s %s: whole, so the fault was none", name, row.query, row.rng)
				}
			}
		}
	}
}

// A shard is damaged after the reply began. What the client has received must
// be right, and so must everything that follows, unless the transfer breaks
// off.
func TestGatewayOverShardsHarmedMeanwhile(t *testing.T) {
	t.Parallel()
	const (
		leaf   = 64 << 10
		leaves = 640 // far more than is read ahead or in transit
	)
	harms := map[string]func(f *os.File) error{
		"truncated": func(f *os.File) error { return f.Truncate(300_000) },
		"flipped": func(f *os.File) error {
			info, err := f.Stat()
			if err != nil {
				return err
			}
			var p [1]byte
			at := info.Size() - 100_000
			if _, err := f.ReadAt(p[:], at); err != nil {
				return err
			}
			p[0] ^= 1
			_, err = f.WriteAt(p[:], at)
			return err
		},
		"deleted": func(f *os.File) error { return os.Remove(f.Name()) },
	}
	for _, second := range []bool{false, true} {
		built := t.TempDir()
		s := newServer(t, options{Dir: built})
		root, content := bigFile(t, s, leaves, 200)
		if second {
			bigFile(t, s, leaves, 250)
		}
		path := "/ipfs/" + root.CID.String()
		_, archive, err := s.fetch(path + "?format=car")
		if err != nil {
			t.Fatal(err)
		}
		s.close()
		for name, harm := range harms {
			for i, row := range []struct {
				query, rng string
				want       []byte
			}{
				{"", "", content},
				{"", "bytes=1000-", content[1000:]},
				{"?format=car", "", archive},
			} {
				if testing.Short() && i != len(name)%3 {
					continue // one of three is enough
				}
				dir := filepath.Join(t.TempDir(), "store")
				if err := os.CopyFS(dir, os.DirFS(built)); err != nil {
					t.Fatal(err)
				}
				s := newServer(t, options{Dir: dir})
				body, status, err := s.fetchMeanwhile(path+row.query, row.rng, func() {
					f, err := os.OpenFile(shardOf(t, dir, content[601*leaf:602*leaf], 41*leaf), os.O_RDWR, 0)
					if err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(harm(f), f.Close()); err != nil {
						t.Fatal(err)
					}
				})
				whole := bytes.Equal(body, row.want)
				switch {
				case status/100 != 2:
					t.Errorf("%s: %s %s: %d before it was harmed", name, row.query, row.rng, status)
				case err == nil && !whole:
					t.Errorf("%s: %s %s: %d other bytes and a clean end", name, row.query, row.rng, len(body))
				case !bytes.HasPrefix(row.want, body):
					t.Errorf("%s: %s %s: other bytes before the end", name, row.query, row.rng)
				case second && !whole:
					t.Errorf("%s: %s %s: %v after %d bytes, with a good copy", name, row.query, row.rng, err, len(body))
				case !second && whole && name != "deleted": // an open file stays readable
					t.Errorf("%s: %s %s: whole, so the fault was none", name, row.query, row.rng)
				}
				s.close()
			}
		}
	}
}

// shardOf returns the path of a shard file of at most this size with the given
// content.
func shardOf(t *testing.T, dir string, content []byte, most int) string {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(dir, "shards", "*", "*.car"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if data, err := os.ReadFile(p); err == nil && len(data) <= most && bytes.Contains(data, content) {
			return p
		}
	}
	t.Fatal("no shard has it")
	return ""
}

// fetchMeanwhile calls f after a reply has begun, and then reads the rest.
func (s *server) fetchMeanwhile(path, rng string, f func()) (body []byte, status int, err error) {
	s.t.Helper()
	dialer := net.Dialer{}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return c, c.(*net.TCPConn).SetReadBuffer(32 << 10) // keep little in transit
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.http.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	first := make([]byte, 100_000)
	if _, err := io.ReadFull(res.Body, first); err != nil {
		return nil, res.StatusCode, err
	}
	f()
	rest, err := io.ReadAll(res.Body)
	return append(first, rest...), res.StatusCode, err
}
