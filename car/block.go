package car

import (
	"io"

	"github.com/ipfs/go-cid"
)

// Source is something whose bytes can be read repeatedly: a file, a spooled
// stream, an archive. Implementations are safe for concurrent use.
type Source interface {
	// Name is what messages call the source.
	Name() string
	// Size is the length in bytes that the source had when it was described.
	Size() int64
	// Open gives access to the bytes. The caller closes the file. If Open sees
	// that the source has changed since it was described, it returns an error
	// that matches [ErrSourceChanged].
	Open() (SourceFile, error)
}

// SourceFile is an open [Source]. ReadAt is safe for concurrent use.
type SourceFile interface {
	io.ReaderAt
	io.Closer
}

// Block is one block of a DAG: its CID, and where its bytes are. The payload is
// Head, then Length bytes of Source from Offset on, then Tail. A block that is
// held in memory has only a Head. Head and Tail are shared: do not modify them.
type Block struct {
	Cid    cid.Cid
	Depth  int // number of links between the root and this block
	Head   []byte
	Source Source
	Offset int64
	Length int
	Tail   []byte

	// Claimed says that the CID comes from an archive and has never been
	// compared with the bytes. If they differ, the archive is corrupt; without
	// Claimed, the source has changed since it was hashed.
	Claimed bool
}

// Size is the number of payload bytes.
func (b *Block) Size() int { return len(b.Head) + b.Length + len(b.Tail) }

// SectionSize is the number of bytes that the block takes in an archive.
func (b *Block) SectionSize() int64 { return SectionSize(b.Cid, b.Size()) }

// List is a sequence of blocks that several goroutines can walk at the same
// time, as often as they like. A list that describes a DAG is depth first, with
// parents before children and each CID once; element 0 is the root.
type List interface {
	Len() int
	At(i int) Block
}

// Blocks is a [List] in a slice.
type Blocks []Block

// Len is the number of blocks.
func (b Blocks) Len() int { return len(b) }

// At returns block i.
func (b Blocks) At(i int) Block { return b[i] }
