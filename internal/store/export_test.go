package store

import (
	"context"
	"time"
)

// Between makes slices and runs as short as possible. It calls f after each
// slice, while the index is free for others.
func (st *Store) Between(f func()) { st.turns = turns{run: 310, links: 3, between: f} }

// Hold blocks the index until the caller releases it.
func (st *Store) Hold(ctx context.Context) (letGo func() error) {
	held, let, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- st.db.update(ctx, func(*tx) error {
			close(held)
			<-let
			return nil
		})
	}()
	<-held
	return func() error { close(let); return <-done }
}

// PatientGroups lets a transaction include everything that waits, however slow
// the machine is. Call it before anything is written.
func (st *Store) PatientGroups() { st.db.write.groupTime = time.Hour }

// Commits returns the number of write transactions since the store was opened.
func (st *Store) Commits() int64 { return st.db.write.commits.Load() }

// WaitQueued waits until this many jobs are waiting for a transaction.
func (st *Store) WaitQueued(n int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(st.db.write.jobs) < n {
		<-tick.C
	}
}

// BreakJournal makes the next write to the journal fail.
func (st *Store) BreakJournal() { _ = st.journal.f.Close() }
