package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/durable"
)

// journal holds the bytes of small shards whose files may not be on the disk
// yet. Syncing a file and its directory takes longer than everything else we do
// for a small shard. So small shards that arrive at the same time are also
// written to the journal, one after the other, and a single sync makes them all
// durable. Their files are synced later, many at a time. After a crash, files
// that were lost are written again.
//
// A journal is a folder of segments. Each segment is a CAR whose blocks are
// shards.
//
// Only the writer's goroutine calls append and sync.
type journal struct {
	files files
	log   *slog.Logger
	f     *os.File // the current segment; nil if the next shard begins one
	dirty bool     // f has bytes that are not durable yet
	cur   segment  // describes f
	next  int      // number of the next segment
	out   []byte   // what append writes; kept for the next call

	bytes    atomic.Int64 // in all segments
	settling sync.WaitGroup

	mu   sync.Mutex
	full []segment // guarded by mu; segments whose files must be synced
	busy bool      // guarded by mu; a goroutine is doing that
}

// segment is a file of the journal.
type segment struct {
	path   string
	bytes  int64
	shards int
}

const (
	journalShardBytes = 256 << 10 // longer shards are synced at once
	segmentBytes      = 8 << 20   // a segment of this size is closed
	journalBytes      = 64 << 20  // when the journal has this size, small shards are synced at once too

	// This few files are synced one by one, since the whole file system may
	// have more to write.
	fewShards = 64
)

// room reports whether a shard of this length goes to the journal.
func (j *journal) room(n int64) bool {
	return j != nil && n <= journalShardBytes && j.bytes.Load() < journalBytes
}

// append writes a shard to the journal. The next sync makes it durable.
func (j *journal) append(c cid.Cid, data []byte) error {
	p := j.out[:0]
	if j.f == nil {
		if err := j.begin(); err != nil {
			return fmt.Errorf("begin a segment of the journal: %w", err)
		}
		p = car.AppendHeader(p, c)
	}
	p = append(p, varint.ToUvarint(uint64(c.ByteLen()+len(data)))...)
	p = append(append(p, c.Bytes()...), data...)
	j.out = p
	if _, err := j.f.WriteAt(p, j.cur.bytes); err != nil {
		// The next shard will overwrite what was written of this one. The
		// segment stays open if others still wait for its earlier shards to be
		// synced.
		if !j.dirty {
			err = errors.Join(err, j.end())
		}
		return fmt.Errorf("write journal: %w", err)
	}
	j.dirty = true
	j.cur.bytes += int64(len(p))
	j.cur.shards++
	j.bytes.Add(int64(len(p)))
	return nil
}

func (j *journal) begin() error {
	dir := filepath.Join(j.files.dir, journalDir)
	path := filepath.Join(dir, fmt.Sprintf("%08d.car", j.next))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	j.next++
	if err := durable.SyncDir(dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	j.f, j.cur = f, segment{path: path}
	return nil
}

// end closes the current segment. Its complete shards are good; a partly
// written one does not count.
func (j *journal) end() error {
	if j.f == nil {
		return nil
	}
	j.mu.Lock()
	j.full = append(j.full, j.cur)
	j.mu.Unlock()
	err := j.f.Close()
	j.f, j.dirty = nil, false
	return err
}

// sync makes durable what was appended. After an error, nothing is known about
// it.
func (j *journal) sync() error {
	if !j.dirty {
		return nil
	}
	if err := j.f.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", errors.Join(err, j.end()))
	}
	j.dirty = false
	if j.cur.bytes < segmentBytes {
		return nil
	}
	if err := j.end(); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	j.mu.Lock()
	begin := !j.busy
	j.busy = true
	j.mu.Unlock()
	if begin {
		j.settling.Go(func() {
			if err := j.settle(); err != nil {
				j.log.LogAttrs(context.Background(), slog.LevelError, "the files of small shards cannot be synced; they stay in the journal", slog.Any("error", err))
			}
		})
	}
	return nil
}

// settle makes the files of all shards in closed segments durable, and removes
// the segments. It includes segments that are closed meanwhile: a full journal
// takes no more shards, so nothing would start settle for those later.
func (j *journal) settle() error {
	for {
		j.mu.Lock()
		full := j.full
		j.full = nil
		j.busy = len(full) > 0
		j.mu.Unlock()
		if len(full) == 0 {
			return nil
		}
		err := j.syncFiles(full)
		for i, s := range full {
			if err == nil {
				err = os.Remove(s.path)
			}
			if err != nil {
				j.mu.Lock()
				j.full, j.busy = append(full[i:], j.full...), false
				j.mu.Unlock()
				return err
			}
			j.bytes.Add(-s.bytes)
		}
	}
}

func (j *journal) syncFiles(of []segment) error {
	shards := 0
	for _, s := range of {
		shards += s.shards
	}
	if shards > fewShards {
		if can, err := durable.SyncAll(j.files.dir); can {
			return err
		}
	}
	dirs := make(map[string]bool)
	for _, s := range of {
		err := readSegment(s.path, func(c cid.Cid, _ []byte) error {
			path := j.files.path(c)
			dirs[filepath.Dir(path)] = true
			return durable.SyncFile(path)
		})
		if err != nil {
			return err
		}
	}
	if len(dirs) > 0 {
		dirs[filepath.Join(j.files.dir, shardsDir)] = true
	}
	for dir := range dirs {
		if err := ignoreMissing(durable.SyncDir(dir)); err != nil {
			return err
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the shard was collected
	}
	return err
}

// close makes the files of all shards durable. Append must not be called any
// more.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	j.settling.Wait()
	return errors.Join(j.end(), j.settle())
}

// replay writes files again that a crash has lost or changed since their shards
// were acknowledged. Known reports whether the index has a shard; others are
// ignored.
func (j *journal) replay(ctx context.Context, known func(context.Context, cid.Cid) (bool, error)) error {
	if j == nil {
		return nil
	}
	left, err := filepath.Glob(filepath.Join(j.files.dir, journalDir, "*.car"))
	if err != nil {
		return err
	}
	for _, path := range left { // sorted by number
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".car"))
		if err != nil {
			continue // not one of ours
		}
		j.next = n + 1
		s := segment{path: path}
		again := 0
		err = readSegment(path, func(c cid.Cid, data []byte) error {
			s.shards++
			is, err := known(ctx, c)
			if err != nil || !is {
				return err
			}
			wrote, err := j.files.restore(c, data)
			if wrote {
				again++
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("replay journal: %w", err)
		}
		if again > 0 {
			j.log.LogAttrs(ctx, slog.LevelWarn, "shards were written again from the journal", slog.Int("shards", again))
		}
		j.full = append(j.full, s)
	}
	if err := j.settle(); err != nil {
		return fmt.Errorf("clear journal: %w", err)
	}
	return nil
}

// readSegment calls do for each shard of a segment. It stops where a crash cut
// it off.
func readSegment(path string, do func(c cid.Cid, data []byte) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	in, err := newSections(f, 0, info.Size())
	for err == nil {
		var sec section
		if sec, err = in.next(); err != nil {
			break
		}
		if sec.len > journalShardBytes {
			return nil
		}
		var data []byte
		if data, err = in.data(sec); err != nil {
			break
		}
		if car.CID(sha256.Sum256(data)) != sec.c {
			return nil
		}
		if err := do(sec.c, data); err != nil {
			return err
		}
	}
	if errors.Is(err, errCutShard) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
