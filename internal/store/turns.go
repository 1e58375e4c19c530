package store

import "time"

// turns say how long one upload may use the index before others get their turn.
type turns struct {
	waited time.Duration // if others are waiting
	alone  time.Duration // if nobody is waiting, so that finished work gets to the disk
	steps  int           // least number of steps of the first turn, so that a small shard is added in one turn
	run    int           // blocks that are recorded together, in the order of their hashes
	links  int           // links of one node that are recorded together
	// between is called between two turns. It is nil except in tests.
	between func()
}

var defaultTurns = turns{waited: 20 * time.Millisecond, alone: time.Second, steps: 4, run: 64 << 10, links: batchLinks}

// batchLinks is roughly how many links are processed at a time.
const batchLinks = 4096
