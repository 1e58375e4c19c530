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

// journal has the bytes of small shards whose files may not be on the disk yet.
// To sync a file and its directory takes longer than all else that is done for a
// small shard. So those that come at the same time are written to the journal
// besides, one after the other, and one sync makes all of them durable. Their
// files are synced later, many at a time. After a crash those that were lost are
// written again.
//
// A journal is a folder of segments, each of them a CAR whose blocks are shards.
//
// Append and sync are called by one goroutine, that of the writer.
type journal struct {
	files files
	log   *slog.Logger
	f     *os.File // the segment that is written; nil if the next shard begins one
	dirty bool     // f has bytes that are not durable
	cur   segment  // f
	next  int      // number of a segment

	bytes    atomic.Int64 // of all segments
	settling sync.WaitGroup

	mu   sync.Mutex
	full []segment // guarded by mu; those whose files are to be synced
	busy bool      // guarded by mu; somebody does that
}

// segment is a file of the journal.
type segment struct {
	path   string
	bytes  int64
	shards int
}

const (
	journalShardBytes = 64 << 10 // shards that are longer are synced at once
	segmentBytes      = 8 << 20  // a segment that has as much is closed
	journalBytes      = 64 << 20 // with as much, shards are synced at once again

	// A few files are synced one by one, for the whole file system may have more to
	// write than that.
	fewShards = 64
)

// room reports whether a shard of this length goes to the journal.
func (j *journal) room(n int64) bool {
	return j != nil && n <= journalShardBytes && j.bytes.Load() < journalBytes
}

// append writes a shard to the journal. It is durable after the next sync.
func (j *journal) append(c cid.Cid, data []byte) error {
	var p []byte
	if j.f == nil {
		if err := j.begin(); err != nil {
			return fmt.Errorf("begin a segment of the journal: %w", err)
		}
		p = car.AppendHeader(nil, c)
	}
	p = append(p, varint.ToUvarint(uint64(c.ByteLen()+len(data)))...)
	p = append(append(p, c.Bytes()...), data...)
	if _, err := j.f.WriteAt(p, j.cur.bytes); err != nil {
		// The next one is written over what there is of it. But others may wait for
		// what is before it to be synced.
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

// end closes the segment that is written. What it has of shards is good: a shard
// of which a part was written is no shard.
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

// sync makes durable what was appended. After an error nothing is known of that.
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

// settle makes durable the files of the shards in all segments that are closed,
// and removes these: also those that are closed meanwhile, for a journal that is
// full closes no more.
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
		return nil // a shard that was collected
	}
	return err
}

// close makes the files of all shards durable. Nobody calls append any more.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	j.settling.Wait()
	return errors.Join(j.end(), j.settle())
}

// replay writes the shards of an earlier process again whose files are not what
// they were when they were acknowledged: those that known says the index has.
func (j *journal) replay(ctx context.Context, known func(context.Context, cid.Cid) (bool, error)) error {
	if j == nil {
		return nil
	}
	left, err := filepath.Glob(filepath.Join(j.files.dir, journalDir, "*.car"))
	if err != nil {
		return err
	}
	for _, path := range left { // in order
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

// readSegment calls do for each shard of a segment. It ends where a crash cut it.
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

// restore writes the file of a shard again unless it has these bytes. What it
// wrote is not durable yet.
func (f files) restore(c cid.Cid, data []byte) (wrote bool, err error) {
	if f.has(c, data) {
		return false, nil
	}
	out, err := f.create()
	if err != nil {
		return false, err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Close()); err == nil {
		wrote, err = f.publish(out.Name(), c, false)
	}
	if !wrote {
		err = errors.Join(err, os.Remove(out.Name()))
	}
	return wrote, err
}
