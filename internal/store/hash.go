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

// accepted are the hash functions of the original's block validator.
func accepted(code uint64) bool {
	switch code {
	case multihash.SHA2_256, multihash.SHA2_512, murmur3x64128, murmur3x32,
		multihash.BLAKE2B_MIN + 31, blake2s256,
		multihash.SHA3_224, multihash.SHA3_256, multihash.SHA3_384, multihash.SHA3_512,
		multihash.SHAKE_128, multihash.SHAKE_256,
		multihash.KECCAK_224, multihash.KECCAK_256, multihash.KECCAK_384, multihash.KECCAK_512:
		return true
	}
	return false
}

const (
	murmur3x32    = 0x23
	murmur3x64128 = 0x1022
	blake2s256    = 0xb260
)

// matches checks a block against its CID; sum is its SHA-256 if that is asked.
func matches(c cid.Cid, data, sum []byte) error {
	d, err := multihash.Decode(c.Hash())
	if err != nil {
		return fault(FaultBlockCID, c, err)
	}
	if d.Code != multihash.IDENTITY && !accepted(d.Code) {
		return fault(FaultBlockHash, c, d.Code)
	}
	if d.Code != multihash.SHA2_256 {
		if sum, err = digestOf(d.Code, data); err != nil {
			return fault(FaultBlockHash, c, d.Code)
		}
	}
	if !bytes.Equal(sum, d.Digest) {
		return fault(FaultBlock, c)
	}
	return nil
}

func digestOf(code uint64, data []byte) ([]byte, error) {
	switch code { // two that go-multihash does not know
	case murmur3x32:
		return binary.BigEndian.AppendUint32(nil, murmur3.Sum32(data)), nil
	case murmur3x64128:
		hi, lo := murmur3.Sum128(data)
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, hi), lo), nil
	}
	mh, err := multihash.Sum(data, code, -1)
	if err != nil {
		return nil, fmt.Errorf("hash block: %w", err)
	}
	d, err := multihash.Decode(mh)
	if err != nil {
		return nil, fmt.Errorf("hash block: %w", err)
	}
	return d.Digest, nil
}

// CheckBlock hashes a block. The error matches [ErrDamaged] if its bytes do not
// match its CID.
func CheckBlock(c cid.Cid, data []byte) error {
	d, err := multihash.Decode(c.Hash())
	if err != nil {
		return fmt.Errorf("block %s: %w", c, err)
	}
	sum, err := digestOf(d.Code, data)
	if err != nil {
		return fmt.Errorf("block %s: %w", c, err)
	}
	if string(sum) != string(d.Digest) {
		return fmt.Errorf("block %s: %w", c, ErrDamaged)
	}
	return nil
}
