// Package durable has what it takes until files survive a loss of power,
// beyond what package os offers, and what tells the system how they are read.
package durable

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
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

// SyncFile makes the bytes of a file durable. What is not there, or no regular
// file, has none.
func SyncFile(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // since then
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// AlignBytes is what disks and file systems want the place of a piece in memory
// and in the file to be a multiple of, at most.
const AlignBytes = 4096

// directBytes is the least first write that goes straight to the disk. What is
// small does not keep a disk busy.
const directBytes = 1 << 20

// Writer writes to a file up to its end, in order.
//
// What is large or has to be on the disk anyway gains nothing by a way through the
// page cache, which takes more of the processor than all else that is done to it.
// So where the system can, what is large goes straight from the caller's buffers to
// the disk. That takes a buffer where a byte's address and its place in the file
// agree modulo AlignBytes, with the first byte at a multiple of that, as is that
// of any slice of some MiB that make returns: [Buffered] has one for those who
// don't. Elsewhere the system is asked to write out meanwhile.
//
// A Writer holds a page. It needs no Close. It is not safe for concurrent use.
type Writer struct {
	f       *os.File
	off     int64  // of the next byte to go to the file
	begun   bool   // something was written
	direct  bool   // not through the page cache
	page    []byte // what waits for the rest of its page
	pending int    // bytes in it
}

// NewWriter returns a Writer to f, which is empty. Until [Writer.Sync] or
// [Writer.Flush] has returned nothing else may be done with f but closing it,
// which is the caller's.
func NewWriter(f *os.File) *Writer { return NewWriterAt(f, 0) }

// NewWriterAt is NewWriter for a file that has so many bytes.
func NewWriterAt(f *os.File, off int64) *Writer { return &Writer{f: f, off: off} }

// bufferBytes is what disks of all kinds write fast.
const bufferBytes = 2 << 20

// Buffered gathers small writes to w in a buffer of some MiB from which they can
// go straight to the disk. It is flushed before w is.
func Buffered(w *Writer) *bufio.Writer { return bufio.NewWriterSize(w, bufferBytes) }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	if !w.begun && len(p) >= directBytes && w.off%AlignBytes == 0 && isAligned(p) && setDirect(w.f, true) {
		w.direct = true
		w.page = newPage()
	}
	w.begun = w.begun || len(p) > 0
	rest := p
	if w.pending > 0 {
		n := copy(w.page[w.pending:], rest)
		rest = rest[n:]
		if w.pending += n; w.pending < AlignBytes {
			return len(p), nil
		}
		if err := w.put(w.page); err != nil {
			return 0, err
		}
		w.pending = 0
	}
	if w.direct && len(rest) > 0 && !isAligned(rest) {
		if err := w.indirect(); err != nil {
			return len(p) - len(rest), err
		}
	}
	whole := len(rest)
	if w.direct {
		whole &^= AlignBytes - 1
	}
	if err := w.put(rest[:whole]); err != nil {
		return len(p) - len(rest), err
	}
	rest = rest[whole:]
	if w.direct {
		w.pending = copy(w.page, rest)
		return len(p), nil
	}
	if err := w.put(rest); err != nil {
		return len(p) - len(rest), err
	}
	return len(p), nil
}

// put writes p to the file: whole pages, if directly.
func (w *Writer) put(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := w.f.WriteAt(p, w.off)
	if w.direct && isMisaligned(err) {
		if err := w.indirect(); err != nil {
			return err
		}
		_, err = w.f.WriteAt(p, w.off)
	}
	if err != nil {
		return err
	}
	from := w.off
	w.off += int64(len(p))
	if !w.direct {
		w.writeback(from)
	}
	return nil
}

// writeback has the system begin to write what is in the page cache from that
// offset on, in whole MiB: to go on in a page that is being written is slow.
func (w *Writer) writeback(from int64) {
	const step = 1 << 20
	from &^= step - 1
	if to := w.off &^ (step - 1); to > from {
		startWriteback(w.f, from, to-from)
	}
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
	if err := w.Flush(); err != nil {
		return err
	}
	return w.f.Sync()
}

// Flush hands all that was written to the system, which is enough where the file
// can be had again. It is the last call.
func (w *Writer) Flush() error {
	// The end of a file is no whole page.
	if err := w.indirect(); err != nil {
		return err
	}
	if err := w.put(w.page[:w.pending]); err != nil {
		return err
	}
	w.pending = 0
	return nil
}

func isAligned(p []byte) bool { return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%AlignBytes == 0 }

func newPage() []byte {
	p := make([]byte, 2*AlignBytes)
	off := -uintptr(unsafe.Pointer(unsafe.SliceData(p))) % AlignBytes
	return p[off:][:AlignBytes:AlignBytes]
}
