package chunker_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/carload/carload/chunker"
)

func planProfiles() map[string]chunker.Profile {
	base := chunker.UnixFSv1()
	base.ChunkBytes, base.Width = 1<<10, 4
	framed, trickle, cut := base, base, base
	framed.RawLeaves, framed.CidVersion = false, 0
	trickle.Layout = chunker.Trickle
	cut.ChunkBytes, cut.Chunker = 0, "rabin-512-1024-2048"
	return map[string]chunker.Profile{"raw": base, "framed": framed, "trickle": trickle, "cut": cut}
}

func TestPlanRoundTrip(t *testing.T) {
	t.Parallel()
	for name, p := range planProfiles() {
		for _, size := range []int64{2049, 4096, 100_000} {
			src := content{R: "chacha20", Seed: name, N: size}.source()
			d, err := chunker.Build(t.Context(), src, chunker.Options{Profile: p})
			if err != nil {
				t.Fatal(err)
			}
			description, err := d.MarshalBinary()
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", name, size, err)
			}
			r, err := chunker.RestoreFile(src, description)
			if err != nil {
				t.Fatalf("%s, %d bytes: %v", name, size, err)
			}
			if r.Root() != d.Root() || r.Len() != d.Len() || r.Size() != d.Size() || r.TotalSize() != d.TotalSize() || r.Profile() != d.Profile() {
				t.Errorf("%s, %d bytes: another DAG", name, size)
			}
			for i := range d.Len() {
				a, b := d.At(i), r.At(i)
				if a.Cid != b.Cid || a.Depth != b.Depth || a.Offset != b.Offset || a.Length != b.Length || !bytes.Equal(a.Head, b.Head) || !bytes.Equal(a.Tail, b.Tail) {
					t.Errorf("%s, %d bytes: block %d is %+v, want %+v", name, size, i, b, a)
				}
			}
			again, err := r.MarshalBinary()
			if err != nil || !bytes.Equal(again, description) {
				t.Errorf("%s, %d bytes: another description, %v", name, size, err)
			}
			if _, err := chunker.RestoreFile(content{R: "zero", N: size + 1}.source(), description); err == nil {
				t.Errorf("%s, %d bytes: restored for a file of another size", name, size)
			}
			for i := 0; i < len(description); i += 1 + len(description)/200 {
				if _, err := chunker.RestoreFile(src, description[:i]); err == nil {
					t.Errorf("%s: restored from %d of %d bytes", name, i, len(description))
				}
				flipped := bytes.Clone(description)
				flipped[i] ^= 0x10
				if _, err := chunker.RestoreFile(src, flipped); err == nil {
					t.Errorf("%s: restored with a flipped bit in byte %d", name, i)
				}
			}
		}
	}
}

func TestPlanUnsupported(t *testing.T) {
	t.Parallel()
	d, err := chunker.Build(t.Context(), content{R: "utf8", S: "one leaf", N: 8}.source(), chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.MarshalBinary(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}

func FuzzDescription(f *testing.F) {
	for name, p := range planProfiles() {
		d, err := chunker.Build(f.Context(), content{R: "chacha20", Seed: name, N: 9000}.source(), chunker.Options{Profile: p})
		if err != nil {
			f.Fatal(err)
		}
		description, err := d.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		// Without the checksum, which the target adds again.
		f.Add(description[:len(description)-32], int64(9000))
	}
	f.Fuzz(func(t *testing.T, body []byte, size int64) {
		src := content{R: "zero", N: size}.source()
		d, err := chunker.RestoreFile(src, chunker.SealDescription(body))
		if err != nil {
			return
		}
		if d.Size() != size {
			t.Errorf("size %d, want %d", d.Size(), size)
		}
		var bytes int64
		for b := range d.Blocks() {
			bytes += int64(b.Length)
		}
		if bytes > size {
			t.Errorf("blocks of %d bytes of a file of %d", bytes, size)
		}
	})
}

// BenchmarkRestoreFile measures the time from the start of a program to the
// first byte that an interrupted upload of 31 GiB can send.
func BenchmarkRestoreFile(b *testing.B) {
	src := content{R: "zero", N: 31 << 30}.source()
	d := chunker.BuildFromLeaves(src, chunker.UnixFSv1(), func(i int, _ int64, _, _ []byte) [32]byte {
		return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	})
	description, err := d.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(description)), "description-bytes")
	for b.Loop() {
		r, err := chunker.RestoreFile(src, description)
		if err != nil || r.Root() != d.Root() {
			b.Fatal(r.Root(), err)
		}
		if r.Len() != d.Len() {
			b.Fatal(r.Len())
		}
		for range r.Blocks() {
		}
	}
}
