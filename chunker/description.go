package chunker

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/carload/carload/car"
)

// descriptionMagic is the start of a description. Its number changes with the
// format.
const descriptionMagic = "carload plan 1\n"

// descriptionHeader identifies what the digests of a description belong to.
type descriptionHeader struct {
	Profile Profile `json:"profile"`
	Size    int64   `json:"size"`
	Root    string  `json:"root"`
	Cuts    int     `json:"cuts,omitempty"` // number of leaf lengths that follow
}

// MarshalBinary implements encoding.BinaryMarshaler. [RestoreFile] can rebuild
// the DAG from the result, 32 bytes for each leaf, without hashing the source
// again. It works only for a single file with more than one leaf and without
// metadata; otherwise the error matches [errors.ErrUnsupported].
func (d *DAG) MarshalBinary() ([]byte, error) {
	n := d.nodes.at(0)
	f, ok := n.body.(*file)
	if !ok || d.nodes.n != 1 || n.stat != nil {
		return nil, fmt.Errorf("description of a DAG that is not one plain file: %w", errors.ErrUnsupported)
	}
	l := f.layout
	header, err := json.Marshal(descriptionHeader{d.profile, d.Size(), d.Root().String(), len(l.ends)})
	if err != nil {
		return nil, err
	}
	digests := f.digests[:l.leaves*digestSize]
	p := make([]byte, 0, len(descriptionMagic)+len(header)+2*binary.MaxVarintLen64+4*len(l.ends)+len(digests)+sha256.Size)
	p = append(p, descriptionMagic...)
	p = binary.AppendUvarint(p, uint64(len(header)))
	p = append(p, header...)
	var last int64
	for _, end := range l.ends {
		p = binary.AppendUvarint(p, uint64(end-last))
		last = end
	}
	p = append(p, digests...)
	digest := sha256.Sum256(p)
	return append(p, digest[:]...), nil
}

var errDescription = errors.New("not a description of this file")

func badDescription(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDescription, fmt.Sprintf(format, args...))
}

// RestoreFile rebuilds a DAG from src and the result of [DAG.MarshalBinary]. It
// does not read the source: the caller has to know that it is unchanged. If it
// did change, that is found when its blocks are read.
func RestoreFile(src car.Source, description []byte) (*DAG, error) {
	h, rest, err := parseDescription(description)
	if err != nil {
		return nil, err
	}
	if h.Size != src.Size() {
		return nil, badDescription("%q has %d bytes, the description is for %d", src.Name(), src.Size(), h.Size)
	}
	b, err := newBuilder(Options{Profile: h.Profile})
	if err != nil {
		return nil, badDescription("%v", err)
	}
	n := &node{body: src, size: h.Size}
	b.dag.nodes = nodes{blocks: [][]node{{*n}}, n: 1}
	n = b.dag.nodes.at(0)
	f, err := restoreLayout(b, n, h, &rest)
	if err != nil {
		return nil, err
	}
	f.digests = make([]byte, f.layout.nodes()*digestSize)
	copy(f.digests, rest)
	f.finish(n)
	if root := b.dag.Root().String(); root != h.Root {
		return nil, badDescription("its digests give root %s, not %s", root, h.Root)
	}
	b.dag.described = time.Now() // the caller vouches that the source is unchanged
	return b.dag, nil
}

// parseDescription checks the frame of a description and returns what follows
// the header.
func parseDescription(description []byte) (h descriptionHeader, rest []byte, err error) {
	if len(description) < len(descriptionMagic)+sha256.Size || string(description[:len(descriptionMagic)]) != descriptionMagic {
		return h, nil, badDescription("wrong magic")
	}
	body := description[:len(description)-sha256.Size]
	if digest := sha256.Sum256(body); !bytes.Equal(digest[:], description[len(body):]) {
		return h, nil, badDescription("its checksum is wrong")
	}
	body = body[len(descriptionMagic):]
	n, used := binary.Uvarint(body)
	if used <= 0 || n > uint64(len(body)-used) {
		return h, nil, badDescription("its header is truncated")
	}
	if err := json.Unmarshal(body[used:used+int(n)], &h); err != nil {
		return h, nil, badDescription("header: %v", err)
	}
	return h, body[used+int(n):], nil
}

// restoreLayout makes the layout of a file and leaves the digests of its leaves
// in rest. It allocates no more than the description justifies.
func restoreLayout(b *builder, n *node, h descriptionHeader, rest *[]byte) (*file, error) {
	p := &b.dag.plain
	if b.cutter == nil {
		chunk := int64(p.ChunkBytes)
		leaves := h.Size/chunk + min(h.Size%chunk, 1)
		if h.Cuts != 0 || h.Size <= 0 || b.oneLeaf(h.Size) || leaves != int64(len(*rest)/digestSize) || len(*rest)%digestSize != 0 {
			return nil, badDescription("%d bytes of digests for a file of %d bytes", len(*rest), h.Size)
		}
		return &file{layout: newLayout(p, h.Size, n.meta())}, nil
	}
	if h.Cuts < 1 || h.Cuts > len(*rest)/(digestSize+1) {
		return nil, badDescription("%d leaves in %d bytes", h.Cuts, len(*rest))
	}
	ends := make([]int64, 0, h.Cuts)
	var last int64
	for range h.Cuts {
		k, used := binary.Uvarint(*rest)
		if used <= 0 || k == 0 || k > car.MaxBlockBytes {
			return nil, badDescription("length of leaf %d", len(ends))
		}
		*rest = (*rest)[used:]
		last += int64(k)
		ends = append(ends, last)
	}
	if last != h.Size || len(*rest) != h.Cuts*digestSize {
		return nil, badDescription("leaves of %d bytes for a file of %d", last, h.Size)
	}
	return &file{layout: newCutLayout(p, h.Size, ends, n.meta())}, nil
}
