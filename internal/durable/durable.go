// Package durable makes files survive a power failure, and advises the kernel
// on how files are read.
package durable

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"unsafe"
)

// SyncDir makes the entries of a directory durable: additions and removals.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SyncFile makes the contents of a file durable. It does nothing if there is no
// such file, or if it is not a regular one.
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
		return nil // it was removed meanwhile
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// AlignBytes is the alignment that disks and file systems require, at most, for
// a direct write: of its address in memory and of its offset in the file.
const AlignBytes = 4096

// directBytes is the least size of a first write that goes directly to the
// disk. Small writes do not keep a disk busy.
const directBytes = 1 << 20

// Writer writes a file from front to back.
//
// Copying large data through the page cache gains nothing if the data must
// reach the disk anyway, and it costs more CPU time than everything else we do
// with the data. So, where the system supports it, large writes go directly
// from the caller's buffer to the disk. For that, an address in the buffer and
// its offset in the file must be equal modulo AlignBytes. A slice of some MiB
// from make that starts at a multiple of AlignBytes in the file will do;
// [Buffered] provides such a buffer. Other writes go through the page cache,
// and the system is asked to start writing them out early.
//
// A Writer holds one page of memory. It needs no Close. It is not safe for
// concurrent use.
type Writer struct {
	f       *os.File
	off     int64  // of the next byte to write to the file
	begun   bool   // something has been written
	direct  bool   // writes bypass the page cache
	page    []byte // an incomplete page that waits for more bytes
	pending int    // bytes in it
}

// NewWriter returns a Writer to f, which is empty. Until [Writer.Sync] or
// [Writer.Flush] has returned, the caller may do nothing with f but close it.
func NewWriter(f *os.File) *Writer { return NewWriterAt(f, 0) }

// NewWriterAt is [NewWriter] for a file that already has off bytes.
func NewWriterAt(f *os.File, off int64) *Writer { return &Writer{f: f, off: off} }

// bufferBytes is a size that all kinds of disks write fast.
const bufferBytes = 2 << 20

// Buffered collects small writes to w in a buffer of some MiB that can be
// written directly. Flush it before w.
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

// put writes p to the file. In direct mode p must consist of whole pages.
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

// writeback asks the system to start writing out the file from offset from on.
// It stops at whole MiB, since adding to a page that is being written out is
// slow.
func (w *Writer) writeback(from int64) {
	const step = 1 << 20
	from &^= step - 1
	if to := w.off &^ (step - 1); to > from {
		startWriteback(w.f, from, to-from)
	}
}

// indirect makes all further writes go through the page cache.
func (w *Writer) indirect() error {
	if w.direct && !setDirect(w.f, false) {
		return errors.New("cannot switch the file back to buffered writes")
	}
	w.direct = false
	return nil
}

// Sync writes what is left and makes the file durable. It must be the last
// call.
func (w *Writer) Sync() error {
	if err := w.Flush(); err != nil {
		return err
	}
	return w.f.Sync()
}

// Flush hands everything to the system but does not wait for the disk. It is
// enough for files that can be made again. It must be the last call.
func (w *Writer) Flush() error {
	// The end of a file is not a whole page, so it can't be written directly.
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
