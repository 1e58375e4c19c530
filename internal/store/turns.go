package store

import "time"

// turns say for how long one upload may hold the index before others get their
// turn.
type turns struct {
	waited time.Duration // if others wait
	alone  time.Duration // if none do, so that what is done gets to the disk
	steps  int           // that are taken at least: small shards are known at once, or not at all
	run    int           // blocks that are made known in the order of their hashes
	// between is called while the index is given up; nil but in tests.
	between func()
}

var defaultTurns = turns{waited: 20 * time.Millisecond, alone: time.Second, steps: 4, run: 64 << 10}
