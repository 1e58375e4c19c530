package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/walk"
)

// samples is how many blocks a sample checks. If one block in a hundred is
// damaged, the sample finds one with a probability of 95 %.
const samples = 300

// checked is a line of verify's reply.
type checked struct {
	Done   int64  `json:"done"` // bytes in a full check, blocks in a sample
	Total  int64  `json:"total"`
	Sound  *bool  `json:"sound,omitempty"` // in the last line only
	Reason string `json:"reason,omitempty"`
}

// verify reads and hashes an upload, all of it or a sample. Meanwhile it
// reports its progress in lines of JSON.
func (c *Console) verify(w http.ResponseWriter, r *http.Request, s *session) {
	u, err := c.st.Upload(r.Context(), s.who.UserID, r.PathValue("cid"))
	if err != nil {
		c.failed(w, r, err)
		return
	}
	root, err := cid.Decode(u.SourceCID)
	if err != nil {
		c.failed(w, r, err)
		return
	}
	p := &progress{w: w, every: 200 * time.Millisecond}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if r.URL.Query().Get("how") == "full" {
		if u.Content.Size != nil {
			p.total = *u.Content.Size
		}
		err = c.readAll(r.Context(), root, p)
	} else {
		p.total = samples
		err = c.readSome(r.Context(), root, p)
	}
	sound := err == nil
	last := checked{Done: p.done, Total: p.total, Sound: &sound}
	switch {
	case err == nil:
	case errors.Is(err, store.ErrDamaged):
		last.Reason = "A block is damaged, and has to be uploaded again."
	case errors.Is(err, walk.ErrMissing):
		last.Reason = "A block is not held."
	case errors.Is(err, walk.ErrBusy):
		last.Reason = "The service is busy; try again in a moment."
	default:
		last.Reason = "It could not be read: " + err.Error()
	}
	p.write(last)
}

// readAll makes an archive of everything below a root and throws it away.
// Making it checks every block.
func (c *Console) readAll(ctx context.Context, root cid.Cid, p *progress) error {
	a, err := c.reader.Archive(ctx, root, walk.ArchiveOptions{})
	if err != nil {
		return err
	}
	defer a.Close()
	return a.WriteTo(ctx, p)
}

// readSome descends from the root to a random leaf, again and again. Every byte
// of the content is equally likely to be checked.
func (c *Console) readSome(ctx context.Context, root cid.Cid, p *progress) error {
	for range samples {
		at := root
		for depth := 0; ; depth++ {
			if depth > links.MaxDepth {
				return fmt.Errorf("the DAG is more than %d links deep", links.MaxDepth)
			}
			block, err := c.reader.Block(ctx, at)
			if err != nil {
				return err
			}
			next, err := pick(at, block)
			if err != nil {
				return err
			}
			if !next.Defined() {
				break
			}
			at = next
		}
		p.add(1)
	}
	return nil
}

// pick chooses a random link of a block. It weights links by the sizes that the
// node claims for them.
func pick(at cid.Cid, block []byte) (next cid.Cid, err error) {
	var all uint64
	choose := func(l cid.Cid, weight uint64) {
		weight = min(max(weight, 1), 1<<50) // a claim may be any number
		if all += weight; rand.Uint64N(all) < weight {
			next = l
		}
	}
	if at.Prefix().Codec == links.DagPB {
		_, err = links.DecodePB(block, func(l links.PBLink) error {
			if _, inline := links.Identity(l.Cid); !inline {
				choose(l.Cid, l.Tsize)
			}
			return nil
		})
		return next, err
	}
	err = links.Each(at, block, func(l cid.Cid) error {
		choose(l, 1)
		return nil
	})
	return next, err
}

// progress counts what was read, and reports it from time to time.
type progress struct {
	w           http.ResponseWriter
	every       time.Duration
	done, total int64
	said        time.Time
}

// Write implements io.Writer.
func (p *progress) Write(b []byte) (int, error) {
	p.add(int64(len(b)))
	return len(b), nil
}

func (p *progress) add(n int64) {
	p.done += n
	if now := time.Now(); now.Sub(p.said) >= p.every {
		p.said = now
		p.write(checked{Done: p.done, Total: p.total})
	}
}

func (p *progress) write(l checked) {
	_ = json.NewEncoder(p.w).Encode(l) // if the client left, the context has ended too
	_ = http.NewResponseController(p.w).Flush()
}
