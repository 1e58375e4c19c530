package unpack

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// ErrBusy is wrapped by errors about a file that another process is restoring.
var ErrBusy = errors.New("another process is writing the file")

// keptBytes is how much of an unfinished file must be there for it to be worth
// keeping.
const keptBytes = 1 << 20

// tempPrefix begins the names of files that are not complete yet.
const tempPrefix = ".carload-"

// tempOf returns the temporary name of a file. It is the same in every call.
func tempOf(e dirEntry) string {
	sum := sha256.Sum256([]byte(e.cid.KeyString() + e.name))
	return tempPrefix + base32.StdEncoding.EncodeToString(sum[:])[:26]
}

// claim records a name of the DAG that looks like one of our temporary names.
func (r *restorer) claim(name string) {
	if strings.HasPrefix(name, tempPrefix) && r.opts.Resume {
		if r.own == nil {
			r.own = make(map[string]struct{})
		}
		r.own[name] = struct{}{}
	}
}

// begin opens the temporary file for an entry. Under Resume it may have content
// from an earlier call.
func (r *restorer) begin(dir *os.Root, e dirEntry) (name string, f *os.File, err error) {
	name = tempOf(e)
	if _, taken := r.own[name]; !r.opts.Resume || taken {
		name = tempName()
		f, err = dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		return name, f, err
	}
	if info, err := dir.Lstat(name); err == nil && !info.Mode().IsRegular() {
		if err := dir.Remove(name); err != nil {
			return "", nil, err
		}
	}
	f, err = dir.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return "", nil, err
	}
	err = lock(f)
	if err == nil {
		// The process that had the lock may have completed and renamed the
		// file.
		var here, there fs.FileInfo
		if here, err = f.Stat(); err == nil {
			if there, err = dir.Lstat(name); err == nil && !os.SameFile(here, there) {
				err = ErrBusy
			}
		}
	}
	if err != nil {
		return "", nil, errors.Join(err, f.Close())
	}
	return name, f, nil
}

// begun returns how much of a file is there and right. It cuts off the rest.
func (r *restorer) begun(ctx context.Context, f *os.File, n *unixfs.Node) (int64, error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	good, err := r.right(ctx, f, info.Size(), n)
	if err != nil {
		return 0, err
	}
	if err := f.Truncate(good); err != nil {
		return 0, err
	}
	_, err = f.Seek(good, io.SeekStart)
	return good, err
}

// worthKeeping reports whether to keep an unfinished file for the next call.
func (r *restorer) worthKeeping(n int64, err error) bool {
	return r.opts.Resume && n >= keptBytes &&
		!errors.Is(err, ErrMissing) && !errors.Is(err, car.ErrCorrupt) && !errors.Is(err, unixfs.ErrInvalid) && !errors.Is(err, fs.ErrExist)
}

// held counts a file that existed already.
func (r *restorer) held(size int64) {
	r.done.Held++
	r.done.Bytes += size
	r.opts.Wrote.Add(size)
}

// holdsRaw reports whether a file that consists of one raw block exists with
// the right content. It does not need the block.
func (r *restorer) holdsRaw(dir *os.Root, e dirEntry) (bool, error) {
	if !r.opts.Resume || e.cid.Prefix().Codec != links.Raw {
		return false, nil
	}
	info, err := dir.Lstat(e.name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > car.MaxBlockBytes {
		return false, nil //nolint:nilerr // restoring the file will report the error
	}
	p, err := dir.ReadFile(e.name)
	if err != nil || len(p) > car.MaxBlockBytes {
		return false, err
	}
	bad, err := car.Mismatch([]cid.Cid{e.cid}, [][]byte{p})
	if err != nil || bad >= 0 {
		return false, err
	}
	r.done.Files++
	r.held(int64(len(p)))
	return true, nil
}

// holds reports whether a file exists with the right content.
func (r *restorer) holds(ctx context.Context, dir *os.Root, e dirEntry, n *unixfs.Node, info fs.FileInfo) (bool, error) {
	if !r.opts.Resume || !info.Mode().IsRegular() || info.Size() != int64(n.Size) {
		return false, nil
	}
	f, err := dir.Open(e.name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	good, err := r.right(ctx, f, info.Size(), n)
	return err == nil && good == int64(n.Size), err
}

// right returns how many bytes at the start of a file agree with the content of
// a node. It hashes the file's bytes rather than load the leaves. It overwrites
// the node.
func (r *restorer) right(ctx context.Context, f io.ReaderAt, size int64, n *unixfs.Node) (int64, error) {
	m := matcher{store: r.store, f: f, size: size}
	err := m.node(ctx, n, 0)
	if errors.Is(err, errDiffers) {
		err = nil
	}
	return m.off, err
}

// matcher compares a file with the content of a DAG.
type matcher struct {
	store *store
	f     io.ReaderAt
	size  int64
	off   int64 // both are equal up to here
	buf   []byte
}

var errDiffers = errors.New("the content differs from here on")

// node compares the content below a node.
func (m *matcher) node(ctx context.Context, n *unixfs.Node, depth int) error {
	if !n.IsFile() || depth > unixfs.MaxFileDepth {
		return errDiffers // restoring it will say what is wrong with it
	}
	if err := m.bytes(n.Data); err != nil {
		return err
	}
	cids, sizes := make([]cid.Cid, len(n.Links)), make([]int64, len(n.Links))
	for i := range cids {
		cids[i], sizes[i] = n.Links[i].Cid, int64(n.Sizes[i])
	}
	for len(cids) > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		k, err := m.leaves(cids, sizes)
		if err != nil {
			return err
		}
		if k == 0 { // not a leaf, or one that is not as we would make it
			if m.off == m.size && sizes[0] > 0 {
				return errDiffers
			}
			data, err := m.store.Peek(ctx, cids[0])
			if err != nil {
				return err
			}
			child, err := m.store.decode(ctx, cids[0], data)
			if err != nil || int64(child.Size) != sizes[0] {
				return errDiffers
			}
			if err := m.node(ctx, child, depth+1); err != nil {
				return err
			}
			k = 1
		}
		cids, sizes = cids[k:], sizes[k:]
	}
	return nil
}

// bytes compares the next bytes of the file with data in a node.
func (m *matcher) bytes(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	got, err := m.read(len(p))
	if err != nil {
		return err
	}
	if string(got) != string(p) {
		return errDiffers
	}
	m.off += int64(len(p))
	return nil
}

// read reads the next n bytes of the file.
func (m *matcher) read(n int) ([]byte, error) {
	if m.off+int64(n) > m.size {
		return nil, errDiffers
	}
	if cap(m.buf) < n {
		m.buf = make([]byte, n)
	}
	k, err := m.f.ReadAt(m.buf[:n], m.off)
	if k < n {
		if errors.Is(err, io.EOF) {
			return nil, errDiffers
		}
		return nil, err
	}
	return m.buf[:n], nil
}

// leaves compares the next bytes of the file with the first few of these
// blocks, provided that they are leaves. It returns how many are equal.
func (m *matcher) leaves(cids []cid.Cid, sizes []int64) (int, error) {
	n, bytes := 0, int64(0)
	raw := cids[0].Prefix().Codec == links.Raw
	for n < len(cids) && n < groupBlocks && (cids[n].Prefix().Codec == links.Raw) == raw &&
		sizes[n] <= car.MaxBlockBytes && bytes+sizes[n] <= groupBytes && m.off+bytes+sizes[n] <= m.size {
		bytes += sizes[n]
		n++
	}
	if n == 0 {
		return 0, nil
	}
	p, err := m.read(int(bytes))
	if err != nil {
		return 0, err
	}
	payloads := make([][]byte, n)
	at := int64(0)
	for i := range payloads {
		payloads[i] = p[at : at+sizes[i]]
		at += sizes[i]
	}
	if !raw {
		return m.wrapped(cids[:n], payloads), nil
	}
	k, err := car.Mismatch(cids[:n], payloads)
	if err != nil || k < 0 {
		k = n
	}
	if err != nil {
		return 0, errDiffers // the hash function is unknown, so the bytes can't be compared
	}
	for _, size := range sizes[:k] {
		m.off += size
	}
	if k < n {
		return k, errDiffers
	}
	return k, nil
}

// wrapped does what leaves does, for leaves that wrap their bytes in DAG-PB.
// There are two ways to wrap them; it tries both.
func (m *matcher) wrapped(cids []cid.Cid, payloads [][]byte) int {
	for i, p := range payloads {
		if bad, err := car.Mismatch(cids[i:i+1], [][]byte{wrap(unixfs.File, p)}); bad >= 0 || err != nil {
			if bad, err := car.Mismatch(cids[i:i+1], [][]byte{wrap(unixfs.Raw, p)}); bad >= 0 || err != nil {
				return i
			}
		}
		m.off += int64(len(p))
	}
	return len(payloads)
}

// wrap makes the DAG-PB block of a leaf.
func wrap(t unixfs.Type, p []byte) []byte {
	m := append(make([]byte, 0, len(p)+48), 1<<3, byte(t))
	if len(p) > 0 {
		m = binary.AppendUvarint(append(m, 2<<3|2), uint64(len(p)))
		m = append(m, p...)
	}
	m = binary.AppendUvarint(append(m, 3<<3), uint64(len(p)))
	return append(binary.AppendUvarint(append(make([]byte, 0, len(m)+8), 1<<3|2), uint64(len(m))), m...)
}

// roomLooked is how many bytes are written between two checks of the free
// space, and how many free bytes are left alone.
const roomLooked = 16 << 20

// room refuses a file that its file system has no space for.
func (r *restorer) room(f *os.File, size int64) error {
	if r.unlooked += size; r.unlooked < roomLooked {
		return nil // a write would fail soon enough
	}
	r.unlooked = 0
	if free, ok := durable.Free(f); ok && free-roomLooked < size {
		return fmt.Errorf("%w: %d more bytes are needed, and %d are free", syscall.ENOSPC, size, free)
	}
	return nil
}

// foresee refuses a directory if there is no space for the size that it claims.
// Files are checked one by one.
func (r *restorer) foresee(top *os.Root, n *unixfs.Node) error {
	if n.IsFile() || r.opts.Resume && !isEmpty(top) {
		return nil
	}
	var size int64
	for _, l := range n.Links {
		size = min(size+clampSize(l.Tsize), 1<<60)
	}
	f, err := top.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return r.room(f, size)
}

// isEmpty reports whether a directory is empty.
func isEmpty(dir *os.Root) bool {
	f, err := dir.Open(".")
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}
