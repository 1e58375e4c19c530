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

// advance moves all busy lanes on by the same number of blocks: as many as the
// shortest has, and at most limit. It returns that number. Lanes may be nil.
func advance(lanes *[maxLanes]*stream, limit int) int {
	var (
		busy [maxLanes]*stream
		h    [maxLanes]*[8]uint32
		p    [maxLanes]*byte
	)
	w, n := 0, limit
	for _, s := range lanes {
		if s == nil || s.idle() {
			continue
		}
		busy[w], h[w], p[w] = s, s.h, &s.now[0]
		n = min(n, len(s.now)/blockSize)
		w++
	}
	blocks(w, &h, &p, n)
	for _, s := range busy[:w] {
		s.now = s.now[n*blockSize:]
		if len(s.now) == 0 {
			s.now = s.next
			s.next = nil
		}
	}
	return n
}
