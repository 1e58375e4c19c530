package uploader

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car/piece"
)

// Observer receives events. Observe is called synchronously, from several
// goroutines at the same time, and must not block. If it panics, the panic is
// logged and the upload goes on.
type Observer interface{ Observe(Event) }

// Event is one of the event types of this package.
type Event interface{ event() }

// Describing is sent when pass 1 of an input begins.
type Describing struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // of payload; 0 if not known yet
}

// Described is sent when pass 1 of an input is done.
type Described struct {
	Name   string  `json:"name"`
	Root   cid.Cid `json:"root"`
	Bytes  int64   `json:"bytes"` // of payload
	Blocks int     `json:"blocks"`
	Shards int     `json:"shards"`
	Cached bool    `json:"cached"` // the description was in the ledger
	Base   cid.Cid `json:"base"`   // root of a DAG that the target holds; undefined if none
	Held   int     `json:"held"`   // blocks that are not sent because they are in Base
	Batch  cid.Cid `json:"batch"`  // root of the batch that the input is part of, if any: the shards are those of the batch
}

// Waiting is sent when another upload is sending the same DAG to the same
// target, in this process or in another one that uses the same ledger. Nothing
// is sent until that upload ends.
type Waiting struct {
	Name string  `json:"name"`
	Root cid.Cid `json:"root"`
}

// Mending is sent when verification has found missing or wrong blocks, before
// their shards are sent again.
type Mending struct {
	Name    string  `json:"name"`
	Root    cid.Cid `json:"root"`
	Missing int     `json:"missing"`
	Wrong   int     `json:"wrong"`
}

// ShardSent is sent when a shard has its receipt, or is known to be there.
type ShardSent struct {
	Name     string  `json:"name"`
	Root     cid.Cid `json:"root"`
	Index    int     `json:"index"` // counted from 0
	Count    int     `json:"count"`
	CID      cid.Cid `json:"archive"` // CAR CID of the shard
	Bytes    int64   `json:"bytes"`
	Attempts int     `json:"attempts"`
	Held     bool    `json:"held"` // the target had it already, so it was not sent

	// Piece is nil unless [Options.PieceCIDs] is set.
	Piece *piece.Piece `json:"-"`
}

// NoShard is the Index of a request that is not for a shard.
const NoShard = -1

// Retrying is sent before the wait that precedes another attempt.
type Retrying struct {
	Name    string        `json:"name"`
	Index   int           `json:"index"`   // of the shard, or NoShard
	Attempt int           `json:"attempt"` // the one that failed, counted from 1
	Wait    time.Duration `json:"waitNanoseconds"`
	Err     error         `json:"-"`
}

// Verified is sent when everything that the verification level asks for was
// checked.
type Verified struct {
	Name   string        `json:"name"`
	Root   cid.Cid       `json:"root"`
	Level  VerifyLevel   `json:"level"`
	Sample *SampleReport `json:"sample,omitempty"`
}

func (Describing) event() {}
func (Described) event()  {}
func (Waiting) event()    {}
func (Mending) event()    {}
func (ShardSent) event()  {}
func (Retrying) event()   {}
func (Verified) event()   {}

func (u *Uploader) observe(e Event) { u.opts.observe(e) }

func (o *Options) observe(e Event) {
	if o.Observer == nil {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			o.Logger.Error("observer panicked", "event", fmt.Sprintf("%T", e), "panic", r)
		}
	}()
	o.Observer.Observe(e)
}

// beginning returns the event for an input that is about to be described.
func beginning(in Input) Describing {
	e := Describing{Name: in.Name()}
	if s, ok := in.(Sized); ok {
		e.Bytes = s.Size()
	}
	return e
}

// Progress is a snapshot of the counters of an [Uploader] since it was made.
// Totals grow as inputs become known.
type Progress struct {
	BytesHashed, BytesToHash int64 // of payload
	BytesSent, BytesToSend   int64 // of shards; failed attempts do not count
	BytesResent              int64 // bytes sent in failed attempts
	ShardsDone, Shards       int64
	Retries                  int64
	ShardsOnTheirWay         int64 // shards whose body is being sent
	BytesOnTheirWay          int64 // bytes of them still to send
	// BytesVerified counts blocks that were fetched back. BytesToVerify is the
	// size according to the root, less what turned out to be duplicates.
	BytesVerified, BytesToVerify int64
	InputsDone, Inputs           int64
}

type counters struct {
	hashed, toHash, sent, toSend, resent, shardsDone, shards, retries, verified, toVerify, inputsDone, inputs atomic.Int64
}

// Progress returns the current counters.
func (u *Uploader) Progress() Progress {
	c := &u.progress
	shards, bytes := u.line.left()
	return Progress{
		BytesHashed: c.hashed.Load(), BytesToHash: c.toHash.Load(),
		BytesSent: c.sent.Load(), BytesToSend: c.toSend.Load(), BytesResent: c.resent.Load(),
		ShardsDone: c.shardsDone.Load(), Shards: c.shards.Load(),
		BytesVerified: c.verified.Load(), BytesToVerify: c.toVerify.Load(),
		Retries: c.retries.Load(), InputsDone: c.inputsDone.Load(), Inputs: c.inputs.Load(),
		ShardsOnTheirWay: shards, BytesOnTheirWay: bytes,
	}
}
