package chunker

import (
	"errors"
	"fmt"

	"github.com/carload/carload/car"
)

// Profile is a named recipe for CIDs: the same bytes and the same profile give
// the same root, here and in every program that the profile stands for. It is
// a value; a profile with a name never changes.
type Profile struct {
	Name       string `json:"name"`
	CidVersion int    `json:"cidVersion"` // 0 or 1
	ChunkBytes int    `json:"chunkBytes"` // payload of a leaf
	Width      int    `json:"width"`      // links of an inner file node
	RawLeaves  bool   `json:"rawLeaves"`  // raw blocks, or UnixFS nodes
}

// UnixFSv1 is the profile unixfs-v1-2025 of IPIP-499, the default.
func UnixFSv1() Profile {
	return Profile{Name: "unixfs-v1-2025", CidVersion: 1, ChunkBytes: 1 << 20, Width: 1024, RawLeaves: true}
}

// UnixFSv0 is the profile unixfs-v0-2015 of IPIP-499, Kubo's default.
func UnixFSv0() Profile {
	return Profile{Name: "unixfs-v0-2015", CidVersion: 0, ChunkBytes: 256 << 10, Width: 174}
}

// Profiles lists the named profiles, the default first.
func Profiles() []Profile { return []Profile{UnixFSv1(), UnixFSv0()} }

// ProfileNamed finds a profile by its name.
func ProfileNamed(name string) (Profile, error) {
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
	}
	return Profile{}, fmt.Errorf("no profile is called %q", name)
}

// leafFraming is the most that UnixFS adds to the payload of a leaf.
const leafFraming = 32

// Validate tells what is wrong with a profile that was put together by hand.
func (p Profile) Validate() error {
	var errs []error
	if p.CidVersion != 0 && p.CidVersion != 1 {
		errs = append(errs, fmt.Errorf("CID version %d: must be 0 or 1", p.CidVersion))
	}
	if p.ChunkBytes < 1 || p.ChunkBytes > car.MaxBlockBytes-leafFraming && !p.RawLeaves || p.ChunkBytes > car.MaxBlockBytes {
		errs = append(errs, fmt.Errorf("chunk of %d bytes: a block must have 1 to %d bytes", p.ChunkBytes, car.MaxBlockBytes))
	}
	// 56 bytes are the most that a link takes together with its block size.
	if p.Width < 2 || p.Width*64 > car.MaxBlockBytes {
		errs = append(errs, fmt.Errorf("width %d: must be between 2 and %d", p.Width, car.MaxBlockBytes/64))
	}
	return errors.Join(errs...)
}
