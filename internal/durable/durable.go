// Package durable has what it takes until files survive a loss of power,
// beyond what package os offers.
package durable

import (
	"errors"
	"os"
)

// SyncDir makes the names in a directory durable: those that were added, and
// those that are gone.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Writer writes to a file from its beginning, and has the system begin to write
// it out meanwhile, so that the sync at the end, which is the caller's, does
// not have to wait for all of it. The file remains the caller's, too. It is not
// safe for concurrent use.
type Writer struct {
	f   *os.File
	off int64
}

// NewWriter returns a Writer to f, which is empty.
func NewWriter(f *os.File) *Writer { return &Writer{f: f} }

// step is what the system is asked to write out in multiples of. The rest waits
// for the next write: to go on in a page that is being written out is slow.
const step = 1 << 20

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.off)
	from := w.off &^ (step - 1)
	w.off += int64(n)
	if to := w.off &^ (step - 1); to > from {
		startWriteback(w.f, from, to-from)
	}
	return n, err
}
