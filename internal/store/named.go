package store

import (
	"sync"

	"github.com/ipfs/go-cid"
)

// named holds a lock per shard CID. The zero value is ready to use.
type named struct {
	mu   sync.Mutex
	held map[string]*nameLock // guarded by mu
}

type nameLock struct {
	mu    sync.Mutex
	users int // guarded by named.mu
}

// lock waits for its turn, and returns a function that ends it.
func (n *named) lock(c cid.Cid) (unlock func()) {
	key := c.KeyString()
	n.mu.Lock()
	if n.held == nil {
		n.held = make(map[string]*nameLock)
	}
	l := n.held[key]
	if l == nil {
		l = new(nameLock)
		n.held[key] = l
	}
	l.users++
	n.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(n.held, key)
		}
	}
}
