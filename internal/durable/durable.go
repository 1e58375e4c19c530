// Package durable has what it takes until files survive a loss of power,
// beyond what package os offers.
package durable

import (
	"errors"
	"os"
	"sync"
	"unsafe"
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

const (
	// pieceBytes is what goes to the disk at a time. Larger pieces are no faster.
	pieceBytes = 1 << 20
	// alignBytes is what disks and file systems want the place of a piece in
	// memory and in the file to be a multiple of, at most.
	alignBytes = 4096
)

// Writers makes Writers, which share buffers. The zero value is ready to use, by
// several goroutines at a time.
type Writers struct {
	pieces sync.Pool // of *piece
}

// piece is a buffer that is aligned.
type piece struct{ data []byte }

func newPiece() *piece {
	p := make([]byte, pieceBytes+alignBytes)
	off := -uintptr(unsafe.Pointer(unsafe.SliceData(p))) % alignBytes
	return &piece{p[off:][:pieceBytes:pieceBytes]}
}

// Writer writes to a file from its beginning. Where the system can, what is
// large goes straight from its buffer of 1 MiB to the disk: what has to be on
// the disk anyway gains nothing by a way through the page cache, which takes
// more of the processor than all else that is done to it. Elsewhere the system
// is asked to write out meanwhile. A Writer is not safe for concurrent use.
type Writer struct {
	from   *Writers
	f      *os.File
	piece  *piece
	n      int   // bytes in piece
	off    int64 // of piece in the file
	direct bool
}

// New returns a Writer to f, which is empty. Until [Writer.Sync] has returned
// nothing else may be done with f but closing it, which is the caller's, too.
func (ws *Writers) New(f *os.File) *Writer {
	p, ok := ws.pieces.Get().(*piece)
	if !ok {
		p = newPiece()
	}
	return &Writer{from: ws, f: f, piece: p}
}

// Write implements io.Writer. What was written may be in the file, or on its
// way.
func (w *Writer) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := copy(w.piece.data[w.n:], p)
		w.n += n
		if w.n == pieceBytes {
			if err := w.flush(); err != nil {
				return total - len(p), err
			}
		}
		p = p[n:]
	}
	return total, nil
}

// flush writes the piece, which is full.
func (w *Writer) flush() error {
	if w.off == 0 {
		w.direct = setDirect(w.f, true)
	}
	_, err := w.f.WriteAt(w.piece.data, w.off)
	if w.direct && isMisaligned(err) {
		if err := w.indirect(); err != nil {
			return err
		}
		_, err = w.f.WriteAt(w.piece.data, w.off)
	}
	if err != nil {
		return err
	}
	if !w.direct {
		startWriteback(w.f, w.off, pieceBytes)
	}
	w.off += pieceBytes
	w.n = 0
	return nil
}

// indirect writes through the page cache from now on.
func (w *Writer) indirect() error {
	if w.direct && !setDirect(w.f, false) {
		return errors.New("file can't be written through the page cache again")
	}
	w.direct = false
	return nil
}

// Sync makes the file durable with all that was written. It is the last call.
func (w *Writer) Sync() error {
	// The end of the file is no whole page.
	err := w.indirect()
	if err == nil {
		_, err = w.f.WriteAt(w.piece.data[:w.n], w.off)
	}
	w.from.pieces.Put(w.piece)
	w.piece = nil
	if err != nil {
		return err
	}
	return w.f.Sync()
}
