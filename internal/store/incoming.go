package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/durable"
)

// Incoming is a shard that was received: checked, and durable, but not yet part
// of the store. [Store.Accept] makes it that. Whoever gets one closes it.
type Incoming struct {
	Root    cid.Cid
	Bytes   int64 // of the file
	DAGSize int64 // of all that is below the root, as the root claims; -1 if unknown
	shard   shard

	st   *Store
	f    *os.File
	out  *durable.Writer // nil if nothing is written by Write
	done bool            // it has the name of a shard
}

func (st *Store) newIncoming() (*Incoming, error) {
	f, err := st.files.create()
	if err != nil {
		return nil, err
	}
	return &Incoming{st: st, f: f}, nil
}

// Receive checks the CAR that src yields while writing it to a file. Its length
// may be given as -1 if it is unknown. The error is a [CARError] if the CAR is
// wrong; an error of src is returned as it is, and must not be the bare
// [io.EOF] or [io.ErrUnexpectedEOF] unless the CAR ends there.
func (st *Store) Receive(ctx context.Context, src io.Reader, length int64) (_ *Incoming, err error) {
	in, err := st.newIncoming()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Close())
		}
	}()
	res, err := in.receive(ctx, src, length)
	if err != nil {
		return nil, err
	}
	if err := res.conclude(); err != nil {
		return nil, err
	}
	in.Root, in.Bytes, in.DAGSize = res.root, res.size, res.facts.size
	in.shard = shard{cid: res.cid, payload: res.payload, end: res.payloadEnd}
	return in, in.sync()
}

// receive is the part of Receive that takes memory, which the sync does not need.
func (in *Incoming) receive(ctx context.Context, src io.Reader, length int64) (*scanResult, error) {
	buf, release, err := in.st.buffer(ctx, length)
	if err != nil {
		return nil, err
	}
	defer release()
	if in.st.discard {
		return in.st.scan(src, buf, nil, in)
	}
	in.out = durable.NewWriter(in.f)
	return in.st.scan(src, buf, in, nil)
}

// Write appends to the file of a shard that is received.
func (in *Incoming) Write(p []byte) (int, error) {
	n, err := in.out.Write(p)
	if err != nil {
		return n, fmt.Errorf("receive shard: %w", err)
	}
	return n, nil
}

// keep writes p where it belongs, and leaves holes for what is not kept.
func (in *Incoming) keep(off int64, p []byte) error {
	if _, err := in.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("receive shard: %w", err)
	}
	return nil
}

// sync makes the bytes of the file durable.
func (in *Incoming) sync() error {
	if in.st.discard {
		if err := in.f.Truncate(in.Bytes); err != nil {
			return fmt.Errorf("receive shard: %w", err)
		}
	}
	flush := in.f.Sync
	if in.out != nil {
		flush = in.out.Sync
	}
	if err := flush(); err != nil {
		return fmt.Errorf("sync shard: %w", err)
	}
	return nil
}

// publish gives the file its name. The caller holds commit.
func (in *Incoming) publish() (err error) {
	in.done, err = in.st.files.publish(in.f.Name(), in.shard.cid)
	return err
}

// Close closes the file, and removes it unless it became part of the store. It
// may be called again.
func (in *Incoming) Close() error {
	if in.f == nil {
		return nil
	}
	f := in.f
	in.f = nil
	err := f.Close()
	if !in.done {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
