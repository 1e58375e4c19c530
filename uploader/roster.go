package uploader

import (
	"context"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
)

const (
	// fewQuestions is how many DAGs are asked for one by one before a page is
	// read.
	fewQuestions = 4
	// firstPages may be read in vain. Each further page takes questionsPerPage
	// questions that no page has answered, so that a large account costs little
	// if its pages do not help.
	firstPages       = 2
	questionsPerPage = 8
	// pageLife is how long a page is trusted.
	pageLife = time.Minute
	// mostKnown limits the DAGs and archives that are kept.
	mostKnown = 1 << 16
)

// roster is what a target recently said about DAGs. It saves a question if the
// answer was in an earlier reply.
type roster struct {
	mu     sync.Mutex
	known  map[cid.Cid]Status
	size   int       // of known: number of DAGs and archives
	since  time.Time // when the oldest part was asked for
	asked  int       // questions that known did not answer
	pages  int
	cursor string
	ended  bool // there are no more pages
	whole  bool // known is the complete list
}

// statusOf returns what the target holds of a DAG that it should know. After a
// few questions, it reads pages of the target's list instead. A DAG that is not
// in the complete list is asked for by itself, unless it is small: sending that
// is faster.
func (u *Uploader) statusOf(ctx context.Context, checker StatusChecker, name string, root cid.Cid, small bool) (Status, error) {
	status, found, err := u.roster.find(ctx, u, name, root)
	switch {
	case found == yes || err != nil:
		return status, err
	case found == no && small:
		return status, ErrNotFound
	}
	return u.status(ctx, checker, name, root)
}

type answer int

const (
	unknown answer = iota
	yes
	no
)

// find looks up a DAG in known, and reads more pages if that is likely to help.
// Others wait meanwhile, since a page may answer their questions too.
func (r *roster) find(ctx context.Context, u *Uploader, name string, root cid.Cid) (Status, answer, error) {
	pager, ok := u.target.(Pager)
	if !ok {
		return Status{}, unknown, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.opts.Clock.Now().Sub(r.since) > pageLife {
		r.forget(u.opts.Clock.Now())
		r.cursor, r.pages, r.ended, r.whole = "", 0, false, false
	}
	if s, ok := r.known[root]; ok {
		return s, yes, nil
	}
	r.asked++
	for r.asked > fewQuestions && !r.ended && r.pages < firstPages+r.asked/questionsPerPage {
		var held []Held
		_, err := u.retry(ctx, name, NoShard, func() (err error) {
			held, r.cursor, err = pager.Page(ctx, r.cursor)
			return err
		})
		if err != nil {
			if ctx.Err() != nil || u.stopping() {
				return Status{}, unknown, err
			}
			u.opts.Logger.Warn("can't read the target's list: asking for each upload", "err", err)
			r.ended = true
			break
		}
		r.pages++
		r.whole = r.cursor == "" // unless there is too much to keep
		r.ended = r.whole
		for _, h := range held {
			r.add(h.Root, Status{State: h.State, Parts: h.Parts}, u.opts.Clock.Now())
		}
		if s, ok := r.known[root]; ok {
			return s, yes, nil
		}
	}
	if r.whole {
		return Status{}, no, nil
	}
	return Status{}, unknown, nil
}

// note keeps what the target said about a DAG in the receipts for its shards.
func (r *roster) note(u *Uploader, root cid.Cid, s Status) {
	if _, ok := u.target.(Pager); !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(root, s, u.opts.Clock.Now())
}

// drop forgets a DAG whose state at the target is about to change.
func (r *roster) drop(root cid.Cid) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, root)
}

func (r *roster) add(root cid.Cid, s Status, now time.Time) {
	if r.size > mostKnown {
		r.forget(now)
	}
	if r.known == nil {
		r.known, r.since = map[cid.Cid]Status{}, now
	}
	r.known[root] = s
	r.size += 1 + len(s.Parts)
}

func (r *roster) forget(now time.Time) {
	clear(r.known)
	r.size, r.since, r.whole = 0, now, false
}
