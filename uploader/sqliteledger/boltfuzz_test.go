package sqliteledger

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzBoltFile writes arbitrary bytes into an old ledger, and truncates it.
// Reading it terminates, yields no value twice, and reports a broken value as
// damage.
func FuzzBoltFile(f *testing.F) {
	z, err := os.Open(filepath.Join("testdata", "bolt.db.gz"))
	if err != nil {
		f.Fatal(err)
	}
	defer z.Close()
	r, err := gzip.NewReader(z)
	if err != nil {
		f.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{0}, uint32(0))
	f.Add(uint32(4096+16), bytes.Repeat([]byte{0xff}, 64), uint32(0))
	f.Add(uint32(4*4096+8), []byte{1, 0, 0xff, 0xff}, uint32(0))
	f.Add(uint32(9*4096), data[4*4096:5*4096], uint32(1))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		file := bytes.Clone(data)
		copy(file[int(at)%len(file):], patch)
		file = file[:len(file)-int(cut)%len(file)]
		isBolt(file)
		b := &boltFile{r: bytes.NewReader(file), size: int64(len(file))}
		visited := 0
		b.visit = func(bucket string, k, v []byte) (damage, fatal error) {
			visited++
			data, err := boltUnseal(k, v)
			if err != nil {
				return err, nil
			}
			switch bucket {
			case "uploads":
				_, err = boltUpload(data)
			case "suspects":
				_, _, err = boltSuspects(data)
			}
			return err, nil
		}
		if err := b.walk(); err != nil {
			t.Fatal(err)
		}
		if visited > len(file)/elementSize || (b.first == nil) != (b.lost == 0) {
			t.Errorf("%d values of %d bytes, %d lost, first %v", visited, len(file), b.lost, b.first)
		}
	})
}
