package chunker

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/sha256mb"
)

// Leaves larger than bigLeafBytes are hashed in lockstep.
const bigLeafBytes = 64 << 10

// stepBytes is how much of all lanes together is read before it is hashed, if
// the file can't be mapped. It stays in the second-level cache of a core, so
// the hash does not wait for memory again.
const stepBytes = 512 << 10

// columnBytes is how much of all lanes together is mapped at a time. runBytes
// is how much of a file a worker takes at a time, unless one leaf for each lane
// is more. Each mapping costs a system call or two.
const (
	columnBytes = 4 << 20
	runBytes    = 4 << 20
)

// lockstep hashes big leaves of one file, one in each lane. If the file is
// mapped, it hashes them in the page cache, otherwise it reads and hashes a
// step of each in turn. It is for one goroutine.
type lockstep struct {
	mapped mapping
	lanes  []lane
	// For the lanes in use: what is hashed next.
	digests []*sha256mb.Digest
	data    [][]byte
	extents []extent
	buf     []byte // nil until the first read
}

// extent is the bytes from..to of a file.
type extent struct{ from, to int64 }

// lane is where one leaf is hashed.
type lane struct {
	digest     sha256mb.Digest
	head, tail []byte // framing to hash before and after the payload
	next, end  int64  // rest of the payload, as offsets in the file
}

func newLockstep(m mapping) *lockstep {
	return &lockstep{mapped: m, lanes: make([]lane, sha256mb.Width())}
}

// leaves computes the digests of count leaves, from number first on.
func (s *lockstep) leaves(l *layout, src io.ReaderAt, name func() string, first, count int, digests []byte) error {
	for end := first + count; first < end; first += len(s.lanes) {
		lanes := s.begin(l, first, end)
		bytes := lanes[len(lanes)-1].end - lanes[0].next
		start, way := time.Now(), access.next()
		if way == reading || !s.hash(lanes) {
			way, lanes = reading, s.begin(l, first, end)
			if err := s.readAndHash(src, name, lanes); err != nil {
				return err
			}
		}
		access.took(way, bytes, time.Since(start))
		for i := range lanes {
			sum := lanes[i].digest.Sum256()
			copy(digestAt(digests, first+i), sum[:])
		}
	}
	return nil
}

// update hashes the next part of each lane.
func (s *lockstep) update(lanes []lane, of func(*lane) []byte) {
	s.digests, s.data = s.digests[:0], s.data[:0]
	for i := range lanes {
		s.digests, s.data = append(s.digests, &lanes[i].digest), append(s.data, of(&lanes[i]))
	}
	sha256mb.Update(s.digests, s.data)
}

// begin puts leaves into lanes, from number first up to end.
func (s *lockstep) begin(l *layout, first, end int) []lane {
	lanes := s.lanes[:min(len(s.lanes), end-first)]
	for i := range lanes {
		lane := &lanes[i]
		lane.digest.Reset()
		lane.next, lane.end = l.leaf(first + i)
		if p := l.profile; !p.RawLeaves {
			lane.head = appendLeafHead(lane.head[:0], p.leafType(), lane.end-lane.next, l.leafMeta())
			lane.tail = appendLeafTail(lane.tail[:0], lane.end-lane.next, l.leafMeta())
		}
	}
	return lanes
}

// hash hashes the leaves in the lanes, a column of them at a time. It returns
// false if they are not mapped or could not be read.
func (s *lockstep) hash(lanes []lane) bool {
	s.update(lanes, func(l *lane) []byte { return l.head })
	for {
		s.digests, s.extents = s.digests[:0], s.extents[:0]
		for i := range lanes {
			lane := &lanes[i]
			if lane.next == lane.end {
				continue
			}
			to := min(lane.end, lane.next+int64(columnBytes/len(s.lanes)))
			s.digests, s.extents = append(s.digests, &lane.digest), append(s.extents, extent{lane.next, to})
			lane.next = to
		}
		if len(s.extents) == 0 {
			break
		}
		if !s.mapped.populate(s.extents) || !s.mapped.use(s.extents, func(data [][]byte) { sha256mb.Update(s.digests, data) }) {
			return false
		}
	}
	s.update(lanes, func(l *lane) []byte { return l.tail })
	return true
}

// readAndHash reads and hashes the leaves in the lanes.
func (s *lockstep) readAndHash(src io.ReaderAt, name func() string, lanes []lane) error {
	if s.buf == nil {
		s.buf = make([]byte, stepBytes)
	}
	step := stepBytes / len(s.lanes)
	for {
		s.digests, s.data = s.digests[:0], s.data[:0]
		for i := range lanes {
			piece, err := lanes[i].read(s.buf[i*step:][:step], src, name)
			if err != nil {
				return err
			}
			if len(piece) > 0 {
				s.digests, s.data = append(s.digests, &lanes[i].digest), append(s.data, piece)
			}
		}
		if len(s.data) == 0 {
			return nil
		}
		sha256mb.Update(s.digests, s.data)
	}
}

// read reads the next step of a lane into buf. The result is empty after the
// last.
func (l *lane) read(buf []byte, src io.ReaderAt, name func() string) ([]byte, error) {
	n := copy(buf, l.head)
	l.head = l.head[n:]
	payload := buf[n:min(len(buf), n+int(l.end-l.next))]
	if err := readFull(src, name, payload, l.next); err != nil {
		return nil, err
	}
	n += len(payload)
	l.next += int64(len(payload))
	if l.next == l.end {
		k := copy(buf[n:], l.tail)
		l.tail = l.tail[k:]
		n += k
	}
	return buf[:n], nil
}

// readFull fills p from offset off of the source with this name.
func readFull(src io.ReaderAt, name func() string, p []byte, off int64) error {
	n, err := src.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return &car.SourceChangedError{Name: name(), Offset: off + int64(n), Reason: "it ends there"}
	default:
		return fmt.Errorf("read source %q at offset %d: %w", name(), off+int64(n), err)
	}
}

// access decides how this process reads what is in the page cache. Which way is
// faster depends on the machine. Measured for 1 GiB on an AMD EPYC with Linux
// 6.18 (2026-11): reading takes 0.1 s of CPU time. Mapping takes 0.01 to 0.03 s
// if the page cache has pieces larger than a page, otherwise as much as
// reading, and 0.4 s in a virtual machine whose host has to handle the first
// access to each page. So both are tried.
var access pace

type way int

const (
	mapped way = iota
	reading
	ways
)

// paceTrials is how often each way is tried. The shortest time counts, since
// others may be using the processor too.
const paceTrials = 3

// paceBytes is the least that is timed.
const paceBytes = 1 << 20

type pace struct {
	mu    sync.Mutex
	tried [ways]int
	best  [ways]float64 // in seconds per byte
}

// next returns the way to use.
func (p *pace) next() way {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range ways {
		if p.tried[w] < paceTrials && p.tried[w] <= slices.Min(p.tried[:]) {
			return w
		}
	}
	if p.best[reading] < p.best[mapped] {
		return reading
	}
	return mapped
}

// took records how long a way took for this many bytes.
func (p *pace) took(w way, bytes int64, d time.Duration) {
	if bytes < paceBytes {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if each := d.Seconds() / float64(bytes); p.tried[w] == 0 || each < p.best[w] {
		p.best[w] = each
	}
	p.tried[w]++
}
