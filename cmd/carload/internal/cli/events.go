package cli

import (
	"cmp"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
)

// The JSON lines. New versions may only add fields.

type planEvent struct {
	eventHeader
	Path    string `json:"path"`
	Root    string `json:"root"`
	Profile string `json:"profile,omitempty"`
	Bytes   int64  `json:"bytes"`
	Blocks  int    `json:"blocks"`
	Shards  int    `json:"shards"`
	Cached  bool   `json:"cached"`
	Base    string `json:"base,omitempty"`
	Held    int    `json:"blocksHeld,omitempty"`
	Batch   string `json:"batch,omitempty"`
}

type mendingEvent struct {
	eventHeader
	Path    string `json:"path"`
	Root    string `json:"root"`
	Missing int    `json:"missing"`
	Wrong   int    `json:"wrong"`
}

type waitingEvent struct {
	eventHeader
	Path string `json:"path"`
	Root string `json:"root"`
}

type progressEvent struct {
	eventHeader
	BytesHashed int64 `json:"bytesHashed"`
	BytesToHash int64 `json:"bytesToHash"`
	BytesSent   int64 `json:"bytesSent"`
	BytesToSend int64 `json:"bytesToSend"`
	BytesResent int64 `json:"bytesResent"`

	BytesVerified int64 `json:"bytesVerified,omitempty"`
	BytesToVerify int64 `json:"bytesToVerify,omitempty"`

	ShardsDone int64 `json:"shardsDone"`
	Shards     int64 `json:"shards"`
	Retries    int64 `json:"retries"`
	InputsDone int64 `json:"inputsDone"`
	Inputs     int64 `json:"inputs"`
}

type shardEvent struct {
	eventHeader
	Path     string `json:"path"`
	Root     string `json:"root"`
	Index    int    `json:"index"`
	Count    int    `json:"count"`
	Archive  string `json:"archive,omitempty"`
	Bytes    int64  `json:"bytes"`
	Attempts int    `json:"attempts,omitempty"`
	Held     bool   `json:"held,omitempty"`
	Target   string `json:"target,omitempty"` // if there are several

	*pieceFields // with --piece-cids
}

type retryEvent struct {
	eventHeader
	Path    string  `json:"path"`
	Index   int     `json:"index"`
	Attempt int     `json:"attempt"`
	Seconds float64 `json:"waitSeconds"`
	Message string  `json:"message"`
	Target  string  `json:"target,omitempty"` // if there are several
}

type fileEvent struct {
	eventHeader
	Path   string `json:"path"`
	Root   string `json:"root,omitempty"`
	Bytes  int64  `json:"bytes"`
	Blocks int    `json:"blocks,omitempty"`
	Shards int    `json:"shards,omitempty"`
	Held   int    `json:"shardsHeld,omitempty"`
	Sent   int64  `json:"bytesSent,omitempty"`
	Left   int64  `json:"left,omitempty"`

	Filtered int64 `json:"filtered,omitempty"`

	Verify string        `json:"verified,omitempty"`
	Sample *sampleReport `json:"sample,omitempty"`
	Code   int           `json:"code"`
	Error  string        `json:"error,omitempty"`
	Target string        `json:"target,omitempty"` // if there are several
	Batch  string        `json:"batch,omitempty"`  // root of the upload that contains it
	Entry  string        `json:"entry,omitempty"`  // its name in the batch
}

// batchEvent reports files that were uploaded together.
type batchEvent struct {
	eventHeader
	Name    string `json:"name"`
	Root    string `json:"root,omitempty"` // empty if nothing had to be sent
	Members int    `json:"members"`
	Bytes   int64  `json:"bytes"`
	Blocks  int    `json:"blocks,omitempty"`
	Shards  int    `json:"shards,omitempty"`
	Held    int    `json:"shardsHeld,omitempty"`
	Sent    int64  `json:"bytesSent,omitempty"`
	Verify  string `json:"verified,omitempty"`
	Code    int    `json:"code"`
	Error   string `json:"error,omitempty"`
	Target  string `json:"target,omitempty"` // if there are several
}

type sampleReport struct {
	Blocks int `json:"blocks"`
	Sample int `json:"sample"`
}

type skippedEvent struct {
	eventHeader
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

type refusedEvent struct {
	eventHeader
	Path  string `json:"path"`
	Of    string `json:"of"`
	Bytes int64  `json:"bytes"`
	Code  int    `json:"code"`
	Error string `json:"error"`
}

type summaryEvent struct {
	eventHeader
	Inputs  int     `json:"inputs"`
	Failed  int     `json:"failed"`
	Bytes   int64   `json:"bytes"`
	Sent    int64   `json:"bytesSent"`
	Resent  int64   `json:"bytesResent"`
	Shards  int     `json:"shards"`
	Held    int     `json:"shardsHeld"`
	Retries int64   `json:"retries"`
	Seconds float64 `json:"seconds"`
	Code    int     `json:"code"`

	Filtered int64 `json:"filtered,omitempty"`
}

// explainedEvent says whether carload takes a path, and why.
type explainedEvent struct {
	eventHeader
	Path  string `json:"path"`
	Of    string `json:"of"`
	Taken bool   `json:"taken"`
	Kind  string `json:"kind,omitempty"`
	Rule  string `json:"rule"`
	At    string `json:"at"` // the path that the rule applies to: this one, or a directory above it
}

// archiveName is empty for a shard that was already there and not read.
func archiveName(c cid.Cid) string {
	if !c.Defined() {
		return ""
	}
	return c.String()
}

// observer prints the events of the engine.
type observer struct {
	con     *console
	profile string
	verbose bool
	target  string // empty if there is only one
	board   *board // nil if nobody watches
}

// name returns the name of an upload in messages.
func (o observer) name(input string) string {
	if o.target == "" {
		return quotePath(input)
	}
	return quotePath(o.target) + ": " + quotePath(input)
}

// Observe implements [uploader.Observer].
func (o observer) Observe(e uploader.Event) {
	if o.board != nil {
		o.board.observe(e, o.name)
	}
	switch e := e.(type) {
	case uploader.Described:
		base, batch := "", ""
		if e.Batch.Defined() {
			batch = e.Batch.String()
		}
		if e.Base.Defined() {
			base = e.Base.String()
			o.con.say("%s: the service already has %d of %s, in %s", quotePath(e.Name), e.Held, count(e.Blocks, "block"), e.Base)
		}
		o.con.event(planEvent{header("plan"), e.Name, e.Root.String(), o.profile, e.Bytes, e.Blocks, e.Shards, e.Cached, base, e.Held, batch})
		if o.verbose && batch == "" {
			o.con.say("%s is %s: %s, %s in %s", o.name(e.Name), e.Root, formatBytes(e.Bytes), count(e.Blocks, "block"), count(e.Shards, "shard"))
		}
	case uploader.Mending:
		o.con.event(mendingEvent{header("mending"), e.Name, e.Root.String(), e.Missing, e.Wrong})
		o.con.say("%s: the service lacks %s and has %d with wrong data: sending them again", quotePath(e.Name), count(e.Missing, "block"), e.Wrong)
	case uploader.Waiting:
		o.con.event(waitingEvent{header("waiting"), e.Name, e.Root.String()})
		o.con.say("%s: another upload is sending the same data to the same target (%s); waiting for it to end", o.name(e.Name), e.Root)
	case uploader.ShardSent:
		o.con.event(shardEvent{header("shard"), e.Name, e.Root.String(), e.Index, e.Count, archiveName(e.CID), e.Bytes, e.Attempts, e.Held, o.target, fieldsOf(e.Piece)})
		if o.verbose {
			what := "done"
			if e.Held {
				what = "already there"
			}
			o.con.say("%s: shard %d of %d %s: %s, %s", o.name(e.Name), e.Index+1, e.Count, what, cmp.Or(archiveName(e.CID), "as part of the whole"), formatBytes(e.Bytes))
		}
	case uploader.Retrying:
		o.con.event(retryEvent{header("retry"), e.Name, e.Index, e.Attempt, e.Wait.Seconds(), printable(e.Err.Error()), o.target})
		o.con.say("%s: attempt %d failed: %v; next in %s", o.attempted(e), e.Attempt, e.Err, formatDuration(e.Wait))
	case uploader.Verified:
		if o.verbose {
			o.con.say("%s: verified (%s)", o.name(e.Name), e.Level)
		}
	}
}

func (o observer) attempted(e uploader.Retrying) string {
	if e.Index < 0 {
		return o.name(e.Name)
	}
	return o.name(e.Name) + ": shard " + itoa(e.Index+1)
}
