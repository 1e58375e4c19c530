package uploader

import (
	"fmt"
	"slices"

	"github.com/carload/carload/splitter"
)

// limit reads the target's limits and reduces the default shard size to them.
// An explicit shard size beyond them is an error.
func (o *Options) limit(target Target) (Limits, error) {
	var limits Limits
	if t, ok := target.(Limited); ok {
		limits = t.Limits()
	}
	most := limits.ShardBytes
	switch {
	case o.MaxShardBytes == 0 && limits.OneShard && most > 0:
		o.MaxShardBytes = most
	case o.MaxShardBytes == 0 && most > 0:
		o.MaxShardBytes = min(most, splitter.DefaultMaxShardBytes)
	case o.MaxShardBytes == 0:
		o.MaxShardBytes = splitter.DefaultMaxShardBytes
	case most > 0 && o.MaxShardBytes > most:
		return limits, fmt.Errorf("%w: shards of up to %d bytes are too large: %s accepts at most %d", ErrLimit, o.MaxShardBytes, target, most)
	}
	return limits, nil
}

// check returns an error if the target does not accept the blocks of a plan.
func (l Limits) check(plan *splitter.Plan) error {
	if l.OneShard && len(plan.Shards) > 1 {
		return fmt.Errorf("%w: a DAG has to fit into one archive of %d bytes, but this one needs %d", ErrLimit, plan.MaxShardBytes, len(plan.Shards))
	}
	if l.BlockBytes == 0 && l.Hashes == nil {
		return nil
	}
	for i := range plan.Blocks.Len() {
		b := plan.Blocks.At(i)
		if l.BlockBytes > 0 && b.Size() > l.BlockBytes {
			return fmt.Errorf("%w: block %s has %d bytes, but the limit is %d", ErrLimit, b.Cid, b.Size(), l.BlockBytes)
		}
		if l.Hashes == nil {
			continue
		}
		if hash := b.Cid.Prefix().MhType; !slices.Contains(l.Hashes, hash) {
			return fmt.Errorf("%w: block %s uses hash function 0x%x", ErrLimit, b.Cid, hash)
		}
	}
	return nil
}
