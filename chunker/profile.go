package chunker

import (
	"errors"
	"fmt"

	"github.com/carload/carload/car"
)

// Profile is a recipe for CIDs: the same bytes and the same profile give the
// same root, here and in every program that the profile stands for. It is a
// plain, comparable value. The named [Profiles] are frozen: what one of their
// names means never changes. A profile with a changed field is another profile,
// and a build names it accordingly: "kubo-cidv1+width-1024".
type Profile struct {
	Name       string   `json:"name"`
	CidVersion int      `json:"cidVersion"`           // 0 or 1
	ChunkBytes int      `json:"chunkBytes,omitempty"` // payload of a leaf, if all have the same size
	Chunker    string   `json:"chunker,omitempty"`    // chunker that cuts by content: rabin[-avg|-min-avg-max] or buzhash; ChunkBytes must be 0
	Layout     Layout   `json:"layout"`               // shape of a file's DAG
	Width      int      `json:"width"`                // most links of an inner file node
	RawLeaves  bool     `json:"rawLeaves"`            // leaves are raw blocks, not UnixFS nodes
	HAMT       Sharding `json:"hamt"`                 // when a directory becomes a HAMT
	Fanout     int      `json:"fanout"`               // buckets of a HAMT node
}

// Layout is the shape of the DAG of a file.
type Layout uint8

const (
	Balanced Layout = iota // all leaves at the same depth
	Trickle                // Kubo's -t: leaves first, then ever deeper subtrees
)

func (l Layout) String() string {
	if l == Trickle {
		return "trickle"
	}
	return "balanced"
}

// MarshalText implements encoding.TextMarshaler.
func (l Layout) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Layout) UnmarshalText(text []byte) error {
	switch string(text) {
	case "balanced":
		*l = Balanced
	case "trickle":
		*l = Trickle
	default:
		return fmt.Errorf("layout %q: must be balanced or trickle", text)
	}
	return nil
}

// UnixFSv1 returns the default profile: unixfs-v1-2025 of IPIP-499.
func UnixFSv1() Profile { return frozen()[0].Profile }

// UnixFSv0 returns unixfs-v0-2015 of IPIP-499, which is Kubo's default.
func UnixFSv0() Profile { return frozen()[1].Profile }

// Profiles returns the named profiles, the default first.
func Profiles() []Profile {
	var ps []Profile
	for _, f := range frozen() {
		ps = append(ps, f.Profile)
	}
	return ps
}

// Programs describes the programs that give the same CIDs as p, if p is one of
// [Profiles]. Otherwise it is empty.
func (p Profile) Programs() string {
	for _, f := range frozen() {
		if f.Profile == p {
			return f.programs
		}
	}
	return ""
}

type frozenProfile struct {
	Profile
	programs string
}

func frozen() []frozenProfile {
	wide := func(name string, hamt Sharding, programs string) frozenProfile {
		return frozenProfile{Profile{
			Name: name, CidVersion: 1, ChunkBytes: 1 << 20, Width: 1024, RawLeaves: true, HAMT: hamt, Fanout: 256,
		}, programs}
	}
	narrow := func(name string, hamt Sharding, programs string) frozenProfile {
		return frozenProfile{Profile{
			Name: name, CidVersion: 1, ChunkBytes: 256 << 10, Width: 174, RawLeaves: true, HAMT: hamt, Fanout: 256,
		}, programs}
	}
	v0 := narrow("unixfs-v0-2015", Sharding{Rule: LinksBytes, Limit: 256 << 10}, "IPIP-499; Kubo's default (0.40 and later)")
	v0.CidVersion, v0.RawLeaves = 0, false
	return []frozenProfile{
		wide("unixfs-v1-2025", Sharding{Rule: BlockBytes, Limit: 256 << 10}, "IPIP-499; Kubo --profile=unixfs-v1-2025"),
		v0,
		narrow("kubo-cidv1", Sharding{Rule: LinksBytes, Limit: 256 << 10}, "Kubo --cid-version=1"),
		narrow("nft.storage", Sharding{Rule: LinksCount, Limit: 1000, AtLimit: true}, "nft.storage 7 (npm), the NFT.Storage service, NFTUp; ipfs-car 0.6 to 0.9"),
		wide("web3.storage", Sharding{Rule: LinksCount, Limit: 1000, AtLimit: true}, "web3.storage 4 (npm)"),
		wide("storacha", Sharding{Rule: LinksCount, Limit: 1000}, "Storacha's upload client, CLI and console"),
		wide("ipfs-car", Sharding{Rule: LinksCount, Limit: 1000}, "ipfs-car 3 (npm)"),
		narrow("ipfs-car-1", Sharding{Rule: LinksCount, Limit: 1000}, "ipfs-car 1 and 2 (npm)"),
		wide("helia", Sharding{Rule: LinksBytes, Limit: 256 << 10}, "Helia's @helia/unixfs 8, but for files of 2 to 4 GiB, whose roots it gets wrong"),
	}
}

// leafFraming is the most that UnixFS adds to the payload of a leaf: 15 bytes
// of fields and lengths, and 35 for mode and time if the leaf is the root.
const leafFraming = 64

// Limits of the fan-out of a HAMT, as in boxo's readers.
const minFanout, maxFanout = 8, 1024

// Validate reports what is wrong with a profile.
func (p Profile) Validate() error {
	var errs []error
	if p.CidVersion != 0 && p.CidVersion != 1 {
		errs = append(errs, fmt.Errorf("CID version %d: must be 0 or 1", p.CidVersion))
	}
	most := car.MaxBlockBytes
	if !p.RawLeaves {
		most -= leafFraming
	}
	switch {
	case p.Chunker != "":
		if _, err := parseCutter(p.Chunker); err != nil {
			errs = append(errs, err)
		}
		if p.ChunkBytes != 0 {
			errs = append(errs, fmt.Errorf("chunker %q and chunks of %d bytes: give one of them", p.Chunker, p.ChunkBytes))
		}
	case p.ChunkBytes < 1 || p.ChunkBytes > most:
		errs = append(errs, fmt.Errorf("chunks of %d bytes: must be 1 to %d bytes", p.ChunkBytes, most))
	}
	if p.Layout > Trickle {
		errs = append(errs, fmt.Errorf("layout %d: must be Balanced or Trickle", p.Layout))
	}
	// A link takes fewer than 64 bytes together with its block size.
	if p.Width < 2 || p.Width > car.MaxBlockBytes/64 {
		errs = append(errs, fmt.Errorf("width %d: must be between 2 and %d", p.Width, car.MaxBlockBytes/64))
	}
	if err := p.HAMT.validate(); err != nil {
		errs = append(errs, err)
	}
	if (p.HAMT.Rule != Never || p.Fanout != 0) && (p.Fanout < minFanout || p.Fanout > maxFanout || p.Fanout&(p.Fanout-1) != 0) {
		errs = append(errs, fmt.Errorf("fan-out %d: must be a power of two between %d and %d", p.Fanout, minFanout, maxFanout))
	}
	return errors.Join(errs...)
}
