package boltledger

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"go.etcd.io/bbolt"
)

// store is a database whose file may change under us. bbolt maps the file, so
// a page that is gone is a fault, and leaves bbolt's locks as they are: hence
// every access is by one goroutine at a time, on which faults are caught, and
// after the first one bbolt is not called again.
type store struct {
	path string

	mu     sync.Mutex // held while bbolt is called
	db     *bbolt.DB
	file   *os.File // bbolt's own
	size   int64    // of the file, which bbolt never makes smaller
	broken error    // of the first fault

	queueMu sync.Mutex
	queue   []*change
}

// change is what is to be done in a transaction.
type change struct {
	f    func(*bbolt.Tx) error
	done bool // this and err are guarded by store.mu
	err  error
}

func openStore(path string, noSync bool) (*store, error) {
	s := &store{path: path}
	opts := boltOptions(noSync)
	opts.OpenFile = func(path string, flag int, mode os.FileMode) (f *os.File, err error) {
		f, err = os.OpenFile(path, flag, mode)
		s.file = f
		return f, err
	}
	var err error
	s.db, err = bbolt.Open(path, 0o600, opts)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// view runs f in a transaction that only reads.
func (s *store) view(f func(*bbolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.named(s.guard(func() error { return s.db.View(f) }))
}

// change runs f in a transaction, which it may share with others that come at
// the same time: while one is on its way to the disk, the next ones gather. If
// one of them fails, each is run again by itself.
func (s *store) change(f func(*bbolt.Tx) error) error {
	c := &change{f: f}
	s.queueMu.Lock()
	s.queue = append(s.queue, c)
	s.queueMu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.done {
		s.queueMu.Lock()
		batch := s.queue
		s.queue = nil
		s.queueMu.Unlock()
		s.commit(batch)
	}
	return s.named(c.err)
}

// commit runs changes, and tells each what became of it. The caller holds mu.
func (s *store) commit(batch []*change) {
	err := s.update(batch)
	for _, c := range batch {
		if c.err = err; err != nil && len(batch) > 1 {
			c.err = s.update([]*change{c})
		}
		c.done = true
	}
}

func (s *store) update(batch []*change) error {
	return s.guard(func() error {
		tx, err := s.db.Begin(true)
		if err != nil {
			return err
		}
		for _, c := range batch {
			if err := c.f(tx); err != nil {
				// To roll back, bbolt reads the whole file on a goroutine of its
				// own, where a fault ends the process. Hence not db.Update, either:
				// it does so after a fault, too.
				if err := s.look(); err != nil {
					return err
				}
				return errors.Join(err, tx.Rollback())
			}
		}
		return tx.Commit()
	})
}

// look finds a file that was cut.
func (s *store) look() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < s.size {
		s.broken = damaged("it was cut from %d to %d bytes by others while it was open", s.size, info.Size())
		return s.broken
	}
	s.size = info.Size()
	return nil
}

// close releases the file. After a fault that is without bbolt, whose mapping
// then stays until the process ends.
func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	if err := s.guard(s.db.Close); s.broken == nil {
		s.file = nil
		return err
	}
	err := errors.Join(unlock(s.file), s.file.Close()) // the mapping would keep it locked
	s.file = nil
	return err
}

// guard makes an error of what a file that changed under us does to bbolt. The
// caller holds mu.
func (s *store) guard(f func() error) (err error) {
	if s.broken != nil {
		return s.broken
	}
	if s.file == nil {
		return os.ErrClosed
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			s.broken = damaged("it was changed by others while it was open: %s", fmt.Sprint(r))
			err = s.broken
		}
	}()
	if err := s.look(); err != nil {
		return err
	}
	return f()
}

func (s *store) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q: %w", s.path, explain(err))
}
