package uploader

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car/piece"
)

// Observer is told what happens. Observe is called synchronously from several
// goroutines and must not block. A panic in it is logged and does not disturb
// the upload.
type Observer interface{ Observe(Event) }

// Event is one of the event types of this package.
type Event interface{ event() }

// Describing is sent when pass 1 of an input begins.
type Describing struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // of payload; 0 if that is not known before
}

// Described is sent when pass 1 of an input is done.
type Described struct {
	Name   string  `json:"name"`
	Root   cid.Cid `json:"root"`
	Bytes  int64   `json:"bytes"` // of payload
	Blocks int     `json:"blocks"`
	Shards int     `json:"shards"`
	Cached bool    `json:"cached"` // the plan was in the ledger
	Base   cid.Cid `json:"base"`   // a DAG that the target has, if there is one
	Held   int     `json:"held"`   // blocks that are not sent because they are in it
	Batch  cid.Cid `json:"batch"`  // that the input is a part of, if it is: the shards are those of the batch
}

// Waiting is sent when the same DAG is being sent to the same target by
// another upload, of this process or another that has the ledger open. Nothing
// is sent until that has ended.
type Waiting struct {
	Name string  `json:"name"`
	Root cid.Cid `json:"root"`
}

// Mending is sent when verification has found blocks that are missing or wrong.
// Their shards are sent again.
type Mending struct {
	Name    string  `json:"name"`
	Root    cid.Cid `json:"root"`
	Missing int     `json:"missing"`
	Wrong   int     `json:"wrong"`
}

// ShardSent is sent when a shard has its receipt.
type ShardSent struct {
	Name     string  `json:"name"`
	Root     cid.Cid `json:"root"`
	Index    int     `json:"index"` // from 0
	Count    int     `json:"count"`
	CID      cid.Cid `json:"archive"` // its CAR CID
	Bytes    int64   `json:"bytes"`
	Attempts int     `json:"attempts"`
	Held     bool    `json:"held"` // it was there already and was not sent

	// Piece is nil unless [Options.PieceCIDs] is set.
	Piece *piece.Piece `json:"-"`
}

// NoShard is the index in events of requests that are not for a shard.
const NoShard = -1

// Retrying is sent before a wait for the next try.
type Retrying struct {
	Name    string        `json:"name"`
	Index   int           `json:"index"`   // of the shard, or NoShard
	Attempt int           `json:"attempt"` // that failed, from 1
	Wait    time.Duration `json:"waitNanoseconds"`
	Err     error         `json:"-"`
}

// Verified is sent when what the verification level asks for has been checked.
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

// beginning is the event of an input that is about to be described.
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
	BytesSent, BytesToSend   int64 // of shards; bytes of failed tries are taken back
	BytesResent              int64 // sent in tries that failed
	ShardsDone, Shards       int64
	Retries                  int64
	ShardsOnTheirWay         int64 // a body of each is being sent
	BytesOnTheirWay          int64 // of them, that are still to go
	// BytesVerified are of blocks that were fetched back; BytesToVerify is what
	// the root says there is, less what turned out to be there twice.
	BytesVerified, BytesToVerify int64
	InputsDone, Inputs           int64
}

type counters struct {
	hashed, toHash, sent, toSend, resent, shardsDone, shards, retries, verified, toVerify, inputsDone, inputs atomic.Int64
}

// Progress returns the counters as they are now.
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
