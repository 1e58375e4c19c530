package store

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Caller is the owner of a token, and what the owner may do.
type Caller struct {
	UserID           int64
	UserName         string
	KeyID            int64 // 0 if no key is involved
	KeyName          string
	Restricted       bool // may not write
	DeleteRestricted bool // may not delete
	Pinning          bool // may pin content
	RateLimited      bool
	QuotaBytes       int64
}

// callers remembers for a moment who the owner of a token is: looking it up
// would be much of the work for a small request. It is safe for concurrent use.
type callers struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]knownCaller // by the hash of the token
	age   int                               // incremented by forget
}

type knownCaller struct {
	caller Caller
	until  time.Time
}

const (
	callerLife  = time.Second // an operator who changes the database by hand waits no longer than this
	mostCallers = 1024
)

// find returns the owner of a token, or nil if that is not known. The age is
// for keep.
func (c *callers) find(hash [sha256.Size]byte) (_ *Caller, age int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.known[hash]; ok && time.Now().Before(k.until) {
		return &k.caller, c.age
	}
	return nil, c.age
}

// keep remembers an owner who was looked up after find, unless forget was
// called meanwhile.
func (c *callers) keep(hash [sha256.Size]byte, who Caller, age int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.age != age {
		return
	}
	if c.known == nil || len(c.known) >= mostCallers {
		c.known = make(map[[sha256.Size]byte]knownCaller)
	}
	c.known[hash] = knownCaller{who, time.Now().Add(callerLife)}
}

// forget forgets everyone, after a key has changed.
func (c *callers) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age++
	clear(c.known)
}
