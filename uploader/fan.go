package uploader

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/car/piece"
)

// Limits on how targets wait for each other.
const (
	// patience is how long a shard waits for another target to ask for it too,
	// and how long its bytes wait for another target to take them.
	patience = 10 * time.Second
	// Bytes are handed on in parcels of parcelBytes, and at most mostParcels
	// wait for a target. A shard holds at most the product of the two in
	// memory.
	parcelBytes = 1 << 20
	mostParcels = 4
)

// stream is the bytes of a shard: a [car.Stream], or a member of a shared one.
type stream interface {
	io.ReadCloser
	io.WriterTo
	CID() (cid.Cid, bool)
	Piece() (piece.Piece, bool)
}

// shardName identifies the bytes of a shard.
type shardName struct {
	root, base cid.Cid
	limit      int64
	index      int
	first, end int
	size       int64
}

// fan hands the bytes of shards to several uploaders. An uploader that works
// alone has none.
type fan struct {
	packer *car.Packer
	pool   sync.Pool // of *[]byte

	mu    sync.Mutex
	ctx   context.Context                  //nolint:containedctx // of the uploads; streams are read under it
	live  map[*Uploader]*atomic.Bool       // uploaders that are not finished, and whether each is in step
	asked map[shardName]map[*Uploader]bool // who has asked for a shard, or never will
	left  map[cid.Cid]map[*Uploader]bool   // who needs no more shards of a root
	tees  map[shardName]*tee               // tees that can still be joined
}

func newFan(uploaders []*Uploader) *fan {
	f := &fan{
		packer: &uploaders[0].packer, live: map[*Uploader]*atomic.Bool{},
		asked: map[shardName]map[*Uploader]bool{}, left: map[cid.Cid]map[*Uploader]bool{}, tees: map[shardName]*tee{},
	}
	for _, u := range uploaders {
		if u.opts.PieceCIDs {
			f.packer = &u.packer // it computes them for all
		}
	}
	f.pool.New = func() any { p := make([]byte, parcelBytes); return &p }
	for _, u := range uploaders {
		f.live[u] = new(atomic.Bool)
		f.live[u].Store(true)
	}
	return f
}

func (f *fan) begin(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ctx = ctx
}

// gone notes that an uploader has finished everything.
func (f *fan) gone(u *Uploader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, u)
	f.settle()
}

// pass notes that an uploader will not ask for a shard, because the target has
// it.
func (f *fan) pass(u *Uploader, name shardName) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(u, name)
	f.settle()
}

// leave notes that an uploader needs no more shards of a root.
func (f *fan) leave(u *Uploader, root cid.Cid) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left[root] == nil {
		f.left[root] = map[*Uploader]bool{}
	}
	f.left[root][u] = true
	f.settle()
	for other := range f.live {
		if !f.left[root][other] {
			return
		}
	}
	delete(f.left, root)
	for name := range f.asked {
		if name.root == root {
			delete(f.asked, name)
		}
	}
}

func (f *fan) note(u *Uploader, name shardName) {
	if f.asked[name] == nil {
		f.asked[name] = map[*Uploader]bool{}
	}
	f.asked[name][u] = true
}

// settle starts the tees that no longer wait for anyone.
func (f *fan) settle() {
	for name, t := range f.tees {
		if !f.expects(name) {
			delete(f.tees, name)
			close(t.started)
		}
	}
}

// expects reports whether an uploader that is in step has yet to ask for a
// shard.
func (f *fan) expects(name shardName) bool {
	for u, inStep := range f.live {
		if inStep.Load() && !f.asked[name][u] && !f.left[name.root][u] {
			return true
		}
	}
	return false
}

// open returns the bytes of a shard for an uploader that asks for it for the
// first time.
func (f *fan) open(ctx context.Context, u *Uploader, name shardName, a car.Archive) stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tees[name]
	late := t == nil && len(f.asked[name]) > 0 // the others have passed it, or have it
	f.note(u, name)
	if t == nil && !f.expects(name) || f.live[u] == nil {
		return u.packer.Open(ctx, a)
	}
	if t == nil {
		t = &tee{fan: f, name: name, archive: a, started: make(chan struct{}), change: make(chan struct{})}
		f.tees[name] = t
	}
	if !late {
		f.live[u].Store(true)
	}
	m := &member{tee: t, ctx: ctx, u: u, inStep: f.live[u]}
	t.join(m)
	f.settle()
	return m
}

// late starts a tee without the uploaders that have not asked for it. Nobody
// waits for them until they are in step again.
func (f *fan) late(t *tee) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tees[t.name] != t {
		return // it has started
	}
	for u, inStep := range f.live {
		if !f.asked[t.name][u] {
			inStep.Store(false)
		}
	}
	f.settle()
}

// tee is a shard that is read once for several members.
type tee struct {
	fan     *fan
	name    shardName
	archive car.Archive
	started chan struct{} // closed when everyone who is expected has joined

	mu      sync.Mutex
	change  chan struct{} // closed and replaced when anything below changes
	members []*member     // those still taking part
	source  *car.Stream   // nil before the first read
	pumping bool          // a member is reading from source
	err     error         // of source; io.EOF at its end
	archCID cid.Cid       // set at the end
	piece   *piece.Piece  // set at the end, if an uploader wants it
}

// parcel is a piece of a shard's bytes.
type parcel struct {
	buf  *[]byte
	n    int
	refs int // members that have not taken all of it; guarded by the tee's mutex
}

// member is a shard's bytes as one uploader reads them.
type member struct {
	tee *tee
	ctx context.Context //nolint:containedctx // of the attempt that reads
	u   *Uploader

	inStep *atomic.Bool // of the uploader

	queue []*parcel // guarded by the tee's mutex
	left  bool      // no longer takes part; guarded by the tee's mutex

	at    int         // bytes taken from the first parcel
	given int64       // all bytes taken
	alone *car.Stream // reads the rest after the member has left the tee
}

func (t *tee) join(m *member) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.members = append(t.members, m)
}

func (t *tee) changed() {
	close(t.change)
	t.change = make(chan struct{})
}

// fill waits until there is a parcel in the queue. If nobody is reading the
// next parcel, fill reads it for all members.
func (m *member) fill() error {
	if err := m.wait(); err != nil {
		return err
	}
	t := m.tee
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case len(m.queue) > 0:
			return nil
		case m.left:
			return errLeft
		case t.err != nil:
			return t.err
		case t.pumping:
			if _, err := m.await(t.change, nil); err != nil {
				return err
			}
		default:
			if err := m.pump(); err != nil {
				return err
			}
		}
	}
}

// errLeft means that a member has to read by itself.
var errLeft = errors.New("the others have gone on")

// wait waits until the tee starts.
func (m *member) wait() error {
	select {
	case <-m.tee.started:
		return nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-m.tee.started:
	case <-timer.C:
		m.tee.fan.late(m.tee)
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
	return nil
}

// await waits for a change or a timeout, without holding the lock.
func (m *member) await(change <-chan struct{}, after <-chan time.Time) (up bool, err error) {
	m.tee.mu.Unlock()
	defer m.tee.mu.Lock()
	select {
	case <-change:
		return false, nil
	case <-after:
		return true, nil
	case <-m.ctx.Done():
		return false, context.Cause(m.ctx)
	}
}

// pump reads a parcel and hands it to all members. Members that have no room
// for it in time have to leave. The caller holds the lock, which pump releases
// while it waits and reads.
func (m *member) pump() error {
	t := m.tee
	t.pumping = true
	defer func() {
		t.pumping = false
		t.changed()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for up := false; ; {
		full := slices.IndexFunc(t.members, func(o *member) bool { return len(o.queue) >= mostParcels })
		if full < 0 {
			break
		}
		if up {
			t.members[full].inStep.Store(false)
			t.leave(t.members[full])
			continue
		}
		var err error
		if up, err = m.await(t.change, timer.C); err != nil {
			return err
		}
	}
	if t.source == nil {
		t.source = t.fan.packer.Open(t.fan.ctx, t.archive)
	}
	buf, _ := t.fan.pool.Get().(*[]byte)
	t.mu.Unlock()
	n, err := io.ReadFull(t.source, *buf)
	t.mu.Lock()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	if err != nil {
		t.err = err
		t.archCID, _ = t.source.CID()
		if p, ok := t.source.Piece(); ok {
			t.piece = &p
		}
	}
	p := &parcel{buf: buf, n: n, refs: 1}
	for _, o := range t.members {
		if n > 0 {
			o.queue = append(o.queue, p)
			p.refs++
		}
	}
	t.release(p)
	if err != nil || len(t.members) == 0 {
		t.close()
	}
	return nil
}

// release reuses the buffer of a parcel once all members have taken it.
func (t *tee) release(p *parcel) {
	if p.refs--; p.refs == 0 {
		t.fan.pool.Put(p.buf)
	}
}

// leave ends a member's part. What is in its queue is dropped: it reads that by
// itself.
func (t *tee) leave(m *member) {
	if m.left {
		return
	}
	m.left = true
	t.members = slices.DeleteFunc(t.members, func(o *member) bool { return o == m })
	// The first parcel may be in use. Its reader knows how much of it was
	// taken.
	for i, p := range m.queue {
		if i > 0 {
			t.release(p)
		}
	}
	m.queue = m.queue[:min(len(m.queue), 1)]
	t.changed()
	if len(t.members) == 0 && !t.pumping {
		t.close()
	}
}

// close closes the source when nobody reads it any more.
func (t *tee) close() {
	if t.source != nil {
		_ = t.source.Close() // Read has reported its error, if any
		t.source = nil
	}
	if t.err == nil {
		t.err = errLeft
	}
}

// next returns the rest of the first parcel, or io.EOF.
func (m *member) next() ([]byte, error) {
	if err := m.fill(); err != nil {
		return nil, err
	}
	m.tee.mu.Lock()
	defer m.tee.mu.Unlock()
	p := m.queue[0]
	return (*p.buf)[m.at:p.n], nil
}

// take notes that n bytes of the first parcel were taken.
func (m *member) take(n int) {
	t := m.tee
	m.given += int64(n)
	m.at += n
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := m.queue[0]; m.at == p.n {
		m.queue, m.at = m.queue[1:], 0
		t.release(p)
		t.changed()
	}
}

// onMyOwn opens the shard for this member alone, at its position.
func (m *member) onMyOwn() error {
	m.alone = m.u.packer.Open(m.ctx, m.tee.archive)
	if _, err := io.CopyN(io.Discard, struct{ io.Reader }{m.alone}, m.given); err != nil {
		return err
	}
	return nil
}

// Read implements io.Reader.
func (m *member) Read(p []byte) (int, error) {
	if m.alone != nil {
		return m.alone.Read(p)
	}
	data, err := m.next()
	if errors.Is(err, errLeft) {
		if err := m.onMyOwn(); err != nil {
			return 0, err
		}
		return m.alone.Read(p)
	}
	if err != nil {
		return 0, err
	}
	n := copy(p, data)
	m.take(n)
	return n, nil
}

// WriteTo implements io.WriterTo.
func (m *member) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if m.alone != nil {
			n, err := m.alone.WriteTo(w)
			return total + n, err
		}
		data, err := m.next()
		switch {
		case errors.Is(err, errLeft):
			if err := m.onMyOwn(); err != nil {
				return total, err
			}
			continue
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
		n, err := w.Write(data)
		m.take(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// CID is known after the last byte.
func (m *member) CID() (cid.Cid, bool) {
	if m.alone != nil {
		return m.alone.CID()
	}
	m.tee.mu.Lock()
	defer m.tee.mu.Unlock()
	return m.tee.archCID, m.tee.archCID.Defined() && m.given == m.tee.archive.Size
}

// Piece is known after the last byte, if an uploader wants pieces.
func (m *member) Piece() (piece.Piece, bool) {
	if m.alone != nil {
		return m.alone.Piece()
	}
	m.tee.mu.Lock()
	defer m.tee.mu.Unlock()
	if m.tee.piece == nil || m.given != m.tee.archive.Size {
		return piece.Piece{}, false
	}
	return *m.tee.piece, true
}

// Close ends the member's part. It must be called once, and not during a read.
func (m *member) Close() error {
	if m.alone != nil {
		return m.alone.Close()
	}
	t := m.tee
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leave(m)
	for _, p := range m.queue {
		t.release(p)
	}
	m.queue = nil
	return nil
}

var (
	_ stream = (*car.Stream)(nil)
	_ stream = (*member)(nil)
)
