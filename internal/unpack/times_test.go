package unpack_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unpack"
)

// timed makes a node with a time, and with a mode if it is not 0.
func (d *dag) timed(typ uint64, data string, mode uint64, secs int64, nanos uint32, links ...link) car.Block {
	var p, m []byte
	for _, l := range links {
		var e []byte
		e = field(e, 1, l.to.Cid.KeyString())
		e = field(e, 2, l.name)
		p = field(p, 2, string(e))
	}
	m = varintField(m, 1, typ)
	if data != "" {
		m = field(m, 2, data)
	}
	if mode != 0 {
		m = varintField(m, 7, mode)
	}
	at := varintField(nil, 1, uint64(secs))
	at = binary.LittleEndian.AppendUint32(append(at, 2<<3|5), nanos)
	m = field(m, 8, string(at))
	return d.add(0x70, field(p, 1, string(m)))
}

// Times are restored even if they don't fit into 64 bits of nanoseconds since
// 1970, and for symlinks too. Setuid and the like are not restored, but
// counted.
func TestTimes(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	want := map[string]time.Time{
		"2400": at("2400-01-02T03:04:05Z"), "1901": at("1901-12-13T20:45:53Z"), "1970": at("1970-01-01T00:00:00Z"), "1969": at("1969-12-31T23:59:59Z"),
		"link": at("2001-02-03T04:05:06Z"), "link 2400": at("2400-01-02T03:04:05Z"), "dir": at("2399-01-01T00:00:00Z"),
	}
	if runtime.GOOS != "linux" {
		t.Skip("not every system has such times")
	}
	for _, force := range []bool{false, true} {
		d := &dag{}
		var ls []link
		for name, when := range want {
			switch {
			case name[0] == 'l':
				ls = append(ls, link{name, d.timed(4, "nowhere", 0, when.Unix(), 7)})
			case name == "dir":
				ls = append(ls, link{name, d.timed(1, "", 0o1755, when.Unix(), 7)})
			default:
				ls = append(ls, link{name, d.timed(2, "x", 0o4755, when.Unix(), 7)})
			}
		}
		root := d.dir(ls...)
		dir := t.TempDir()
		done, err := unpack.Restore(ctx, indexOf(t, d.blocks), root.Cid, dir, unpack.Options{Force: force})
		if err != nil {
			t.Fatal(err)
		}
		if done.Stripped != 5 {
			t.Errorf("%d modes were stripped, want 5", done.Stripped)
		}
		for name, when := range want {
			info, err := os.Lstat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			// Not every file system stores nanoseconds.
			if got := info.ModTime(); got.Unix() != when.Unix() {
				t.Errorf("%s, force %v: %s, want %s", name, force, got.UTC(), when)
			}
			if info.Mode()&(os.ModeSetuid|os.ModeSticky) != 0 {
				t.Errorf("%s: mode %s", name, info.Mode())
			}
		}
	}
}
