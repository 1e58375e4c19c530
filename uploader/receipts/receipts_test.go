package receipts_test

import (
	"bytes"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/receipts"
)

func some() []receipts.Record {
	key := uploader.UploadKey{Target: "https://api.example.org", Root: ledgertest.CID(1), MaxShardBytes: 100}
	grown := key
	grown.Base = ledgertest.CID(2)
	at := time.Date(2026, 11, 26, 12, 0, 0, 123456000, time.UTC)
	return []receipts.Record{
		receipts.Upload{UploadKey: key, Begun: at},
		receipts.Upload{UploadKey: grown, Begun: at, Verified: at.Add(time.Hour)},
		receipts.Receipt{UploadKey: key, Index: 0, CID: ledgertest.CID(3)},
		receipts.Receipt{UploadKey: grown, Index: 334, CID: ledgertest.CID(4)},
		receipts.Source{UploadKey: key, Finished: uploader.Finished{Source: "/data/ä\n", Bytes: 0, Level: uploader.VerifySample}, At: at, Known: true},
		receipts.Source{UploadKey: key, Finished: uploader.Finished{Source: "/data/\xff"}, At: at},
	}
}

func all(records []receipts.Record) iter.Seq2[receipts.Record, error] {
	return func(yield func(receipts.Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func written(tb testing.TB, records []receipts.Record) []byte {
	tb.Helper()
	var buf bytes.Buffer
	if n, err := receipts.Write(&buf, all(records)); err != nil || n != len(records) {
		tb.Fatal(n, err)
	}
	return buf.Bytes()
}

func read(p []byte) (list []receipts.Record, err error) {
	for r, err := range receipts.Read(bytes.NewReader(p)) {
		if err != nil {
			return list, err
		}
		list = append(list, r)
	}
	return list, nil
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	want := some()
	p := written(t, want)
	if !receipts.IsExport(p) {
		t.Error("it is not taken for an export")
	}
	got, err := read(slices.Concat(p, p))
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b cid.Cid) bool { return a.Equals(b) })
	if diff := cmp.Diff(slices.Concat(want, want), got, same); diff != "" {
		t.Error(diff)
	}
}

// A stream truncated between any two lines is detected.
func TestCut(t *testing.T) {
	t.Parallel()
	p := written(t, some())
	for n := range p {
		if _, err := read(p[:n]); n < len(p)-1 && !errors.Is(err, receipts.ErrMalformed) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(p), err)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	const root = `"root":"bafkreicdkwsgwgotjdoc6v6ai34o6y6ukohlxe3aadz4t3uvjitumdoymu"`
	for name, body := range map[string]string{
		"no JSON":          `x`,
		"version":          `{"v":2,"type":"upload"}`,
		"no root":          `{"v":1,"type":"upload","target":"t"}`,
		"root":             `{"v":1,"type":"upload","target":"t","root":"bafy"}`,
		"no target":        `{"v":1,"type":"upload",` + root + `}`,
		"negative shards":  `{"v":1,"type":"upload","target":"t","maxShardBytes":-1,` + root + `}`,
		"time":             `{"v":1,"type":"upload","target":"t","begun":"0900-01-01T00:00:00Z",` + root + `}`,
		"no shard":         `{"v":1,"type":"receipt","target":"t",` + root + `,"archive":"bafkreicdkwsgwgotjdoc6v6ai34o6y6ukohlxe3aadz4t3uvjitumdoymu"}`,
		"negative shard":   `{"v":1,"type":"receipt","target":"t","index":-1,` + root + `,"archive":"bafkreicdkwsgwgotjdoc6v6ai34o6y6ukohlxe3aadz4t3uvjitumdoymu"}`,
		"archive":          `{"v":1,"type":"receipt","target":"t","index":1,` + root + `}`,
		"no path":          `{"v":1,"type":"source","target":"t","finished":"2026-01-01T00:00:00Z",` + root + `}`,
		"level":            `{"v":1,"type":"source","target":"t","finished":"2026-01-01T00:00:00Z","path":"/a","bytes":1,"verified":"hoped",` + root + `}`,
		"size":             `{"v":1,"type":"source","target":"t","finished":"2026-01-01T00:00:00Z","path":"/a","bytes":-1,"verified":"full",` + root + `}`,
		"long":             `{"v":1,"type":"source","path":"` + strings.Repeat("x", receipts.MaxLineBytes) + `"}`,
		"another in it":    `{"v":1,"type":"export"}`,
		"count of the end": `{"v":1,"type":"end","lines":7}`,
	} {
		p := []byte("{\"v\":1,\"type\":\"export\"}\n" + body + "\n{\"v\":1,\"type\":\"end\",\"lines\":1}\n")
		if _, err := read(p); !errors.Is(err, receipts.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := read(nil); !errors.Is(err, receipts.ErrMalformed) {
		t.Errorf("nothing at all: %v", err)
	}
	// Additions of later versions are skipped.
	later := "{\"v\":1,\"type\":\"export\",\"host\":\"a\"}\n{\"v\":1,\"type\":\"omen\"}\n{\"v\":1,\"type\":\"end\",\"lines\":1}\n"
	if list, err := read([]byte(later)); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
}

// FuzzRead reads arbitrary streams. What it accepts can be written and read
// again.
func FuzzRead(f *testing.F) {
	f.Add(written(f, some()))
	f.Add(written(f, nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		list, err := read(p)
		if err != nil {
			return
		}
		again, err := read(written(t, list))
		if err != nil || len(again) != len(list) {
			t.Errorf("%d records become %d: %v", len(list), len(again), err)
		}
	})
}
