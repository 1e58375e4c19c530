package sha256mb

const (
	maxLanes = 16

	// maxStep is the most blocks per lane that one call of a kernel hashes: 64
	// KiB. The scheduler cannot preempt assembly, and a lane that runs dry is
	// refilled only between calls, so larger steps would hurt. They would gain
	// nothing either: a call is cheap.
	maxStep = 1024
)

// stream is a message in a lane: whole blocks still to be added to a state.
type stream struct {
	h         *[8]uint32
	now, next []byte // next is empty whenever now is
}

func (s *stream) idle() bool { return len(s.now) == 0 }

// move advances the busy lanes by the same number of blocks: as many as the
// shortest has, but at most limit. It returns that number. Entries of lanes may
// be nil. If more lanes are busy than this machine hashes well at once, only
// the first ones move. If the kernel has more lanes than move, it hashes the
// blocks of the first one again in those, and nobody takes the result.
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
	k := p.kernels[w]
	var nobody [8]uint32
	for i := w; i < k.lanes; i++ {
		h[i], at[i] = &nobody, at[0]
	}
	blocks(k.kernel, &h, &at, n)
	for _, s := range busy[:w] {
		s.now = s.now[n*blockSize:]
		if len(s.now) == 0 {
			s.now = s.next
			s.next = nil
		}
	}
	return n
}
