package car

import (
	"io"

	"github.com/ipfs/go-cid"
)

// Source is something whose bytes can be read again and again: a file, the
// spool of a stream, an archive. Implementations are safe for concurrent use.
type Source interface {
	// Name is how messages call the source.
	Name() string
	// Size is its length in bytes when it was described.
	Size() int64
	// Open gives access to its bytes; the caller closes what it gets. A source
	// that sees that it is no longer the one that was described returns an
	// error matching [ErrSourceChanged].
	Open() (SourceFile, error)
}

// SourceFile is an open [Source]. ReadAt is safe for concurrent use.
type SourceFile interface {
	io.ReaderAt
	io.Closer
}

// Block is one block of a DAG: its CID, and where its bytes are. The payload
// is Head, then Length bytes of Source from Offset on, then Tail. A block held
// in memory has a Head only. Head and Tail are shared, and only read.
type Block struct {
	Cid    cid.Cid
	Depth  int // number of links between the root and this block
	Head   []byte
	Source Source
	Offset int64
	Length int
	Tail   []byte

	// Claimed says that the CID comes from an archive and has never been
	// compared with the bytes. If they differ the archive is corrupt; a source
	// that was hashed has changed.
	Claimed bool
}

// Size is the number of payload bytes.
func (b *Block) Size() int { return len(b.Head) + b.Length + len(b.Tail) }

// SectionSize is the number of bytes the block takes in an archive.
func (b *Block) SectionSize() int64 { return SectionSize(b.Cid, b.Size()) }

// List is a sequence of blocks that can be walked more than once, by several
// goroutines at a time. The lists that describe a DAG go depth first, parents
// before children, each CID once; element 0 is the root.
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
