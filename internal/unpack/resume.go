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

// ErrBusy is wrapped by errors that report a file which another process
// restores at this time.
var ErrBusy = errors.New("another process is writing it")

// keptBytes is how much of a file must be there to be worth keeping.
const keptBytes = 1 << 20

// tempPrefix is what names begin with that files have until they are complete.
const tempPrefix = ".carload-"

// tempOf is the name that a file has until it is complete, the same in each
// call.
func tempOf(e dirEntry) string {
	sum := sha256.Sum256([]byte(e.cid.KeyString() + e.name))
	return tempPrefix + base32.StdEncoding.EncodeToString(sum[:])[:26]
}

// claim notes a name of the DAG's that could be taken for one of ours.
func (r *restorer) claim(name string) {
	if strings.HasPrefix(name, tempPrefix) && r.opts.Resume {
		if r.own == nil {
			r.own = make(map[string]struct{})
		}
		r.own[name] = struct{}{}
	}
}

// begin opens the file in which another one is made. Under Resume it may have
// some content.
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
		// Who had the lock may have given the file its name.
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

// begun tells how much of a file is there and right, and drops the rest.
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

// worthKeeping tells whether a file that was begun is to be there for the next
// call.
func (r *restorer) worthKeeping(n int64, err error) bool {
	return r.opts.Resume && n >= keptBytes &&
		!errors.Is(err, ErrMissing) && !errors.Is(err, car.ErrCorrupt) && !errors.Is(err, unixfs.ErrInvalid) && !errors.Is(err, fs.ErrExist)
}

// held counts a file that was there.
func (r *restorer) held(size int64) {
	r.done.Held++
	r.done.Bytes += size
	r.opts.Wrote.Add(size)
}

// holdsRaw tells whether a file of one raw block is there and right, without
// the block.
func (r *restorer) holdsRaw(dir *os.Root, e dirEntry) (bool, error) {
	if !r.opts.Resume || e.cid.Prefix().Codec != links.Raw {
		return false, nil
	}
	info, err := dir.Lstat(e.name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > car.MaxBlockBytes {
		return false, nil //nolint:nilerr // that it can't be had will show
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

// holds tells whether a file is there and right.
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

// right tells how many of the first bytes of a file are those of the content
// of a node, without loading the blocks that have them. The node is overwritten.
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
	off   int64 // how far they are equal
	buf   []byte
}

var errDiffers = errors.New("the content differs from here on")

// node compares what is under a node.
func (m *matcher) node(ctx context.Context, n *unixfs.Node, depth int) error {
	if !n.IsFile() || depth > unixfs.MaxFileDepth {
		return errDiffers // what is wrong with it shows when it is restored
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
		if k == 0 { // not a leaf, or none that is there
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

// bytes compares bytes of a node.
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

// read reads what the file has next.
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

// leaves compares some blocks with the bytes that they would be made of, if
// they are leaves, and tells how many are equal.
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
		return 0, errDiffers // not a hash to be compared here
	}
	for _, size := range sizes[:k] {
		m.off += size
	}
	if k < n {
		return k, errDiffers
	}
	return k, nil
}

// wrapped is leaves for blocks that wrap their bytes, in one of the two ways in
// which that is done.
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

// roomLooked is how many bytes are written without a look at the free space,
// and how many are left to others.
const roomLooked = 16 << 20

// room refuses what the file system of f has no room for.
func (r *restorer) room(f *os.File, size int64) error {
	if r.unlooked += size; r.unlooked < roomLooked {
		return nil // writing tells soon enough
	}
	r.unlooked = 0
	if free, ok := durable.Free(f); ok && free-roomLooked < size {
		return fmt.Errorf("%w: it needs %d bytes more, and %d are free", syscall.ENOSPC, size, free)
	}
	return nil
}

// foresee refuses a directory that says itself that there is no room for it.
// Files are looked at one by one.
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

// isEmpty tells whether there is nothing in a directory.
func isEmpty(dir *os.Root) bool {
	f, err := dir.Open(".")
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}
