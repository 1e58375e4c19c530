package sha256mb

const (
	maxLanes = 4

	// maxStep bounds one call of a kernel, in blocks per lane: 64 KiB. The
	// scheduler cannot preempt assembly, and a lane that runs dry is refilled
	// only between calls. Both would suffer from more; a call costs too little
	// to gain from it.
	maxStep = 1024
)

// stream is a message in a lane: whole blocks to be added to a state.
type stream struct {
	h         *[8]uint32
	now, next []byte // next is empty if now is
}

func (s *stream) idle() bool { return len(s.now) == 0 }

// move moves busy lanes on by the same number of blocks: as many as the shortest
// of them has, and at most limit. It returns that number. Lanes may be nil. If
// more are busy than are worth it at once, the first ones move.
func (p *plan) move(lanes *[maxLanes]*stream, limit int) int {
	var (
		busy [maxLanes]*stream
		h    [maxLanes]*[8]uint32
		at   [maxLanes]*byte
	)
	w := 0
	for _, s := range lanes {
		if s == nil || s.idle() {
			continue
		}
		busy[w], h[w], at[w] = s, s.h, &s.now[0]
		w++
	}
	w = p.advance[w]
	n := limit
	for _, s := range busy[:w] {
		n = min(n, len(s.now)/blockSize)
	}
	blocks(p.kernels[w], &h, &at, n)
	for _, s := range busy[:w] {
		s.now = s.now[n*blockSize:]
		if len(s.now) == 0 {
			s.now = s.next
			s.next = nil
		}
	}
	return n
}
