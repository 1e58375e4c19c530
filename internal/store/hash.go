package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	_ "github.com/multiformats/go-multihash/register/all" // blocks may name any of the accepted functions
	"github.com/spaolacci/murmur3"
)

// accepted reports whether a hash function is accepted: those of the original
// service's block validator, and all others that we can check and that have a
// long enough digest.
func accepted(code uint64, length int) bool {
	switch code {
	case murmur3x64128, murmur3x32, multihash.IDENTITY:
		return true
	}
	_, err := multihash.GetHasher(code)
	return err == nil && (length >= minDigestBytes || code == multihash.SHAKE_128)
}

const (
	murmur3x32    = 0x23
	murmur3x64128 = 0x1022
	// minDigestBytes is the least length of a digest that is safe against
	// collisions.
	minDigestBytes = 20
)

// matches checks a block against its CID. If the CID uses SHA-256, sum is the
// block's digest.
func matches(c cid.Cid, data, sum []byte) error {
	d, err := multihash.Decode(c.Hash())
	if err != nil {
		return fault(FaultBlockCID, c, err)
	}
	if !accepted(d.Code, d.Length) {
		return fault(FaultBlockHash, c, d.Code)
	}
	switch {
	case d.Code == multihash.SHA2_256 && len(sum) >= d.Length:
		sum = sum[:d.Length] // digests may be truncated
	case d.Code != multihash.SHA2_256:
		if sum, err = digestOf(d.Code, d.Length, data); err != nil {
			return fault(FaultBlockHash, c, d.Code)
		}
	}
	if !bytes.Equal(sum, d.Digest) {
		return fault(FaultBlock, c)
	}
	return nil
}

func digestOf(code uint64, length int, data []byte) ([]byte, error) {
	switch code {
	case multihash.IDENTITY:
		return data, nil
	// go-multihash does not know these two.
	case murmur3x32:
		return binary.BigEndian.AppendUint32(nil, murmur3.Sum32(data)), nil
	case murmur3x64128:
		hi, lo := murmur3.Sum128(data)
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, hi), lo), nil
	}
	mh, err := multihash.Sum(data, code, length)
	if err != nil {
		return nil, fmt.Errorf("hash block: %w", err)
	}
	d, err := multihash.Decode(mh)
	if err != nil {
		return nil, fmt.Errorf("hash block: %w", err)
	}
	return d.Digest, nil
}

// CheckBlock hashes a block and compares the result with its CID. If they don't
// match, the error matches [ErrDamaged].
func CheckBlock(c cid.Cid, data []byte) error {
	d, err := multihash.Decode(c.Hash())
	if err != nil {
		return fmt.Errorf("block %s: %w", c, err)
	}
	sum, err := digestOf(d.Code, d.Length, data)
	if err != nil {
		return fmt.Errorf("block %s: %w", c, err)
	}
	if string(sum) != string(d.Digest) {
		return fmt.Errorf("block %s: %w", c, ErrDamaged)
	}
	return nil
}
