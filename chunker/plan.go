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

// planMagic begins every plan. Its number changes with the format.
const planMagic = "carload plan 1\n"

// planHeader is what the digests of a plan belong to.
type planHeader struct {
	Profile Profile `json:"profile"`
	Size    int64   `json:"size"`
	Root    string  `json:"root"`
	Cuts    int     `json:"cuts,omitempty"` // lengths of leaves that follow
}

// MarshalBinary implements encoding.BinaryMarshaler: what [RestoreFile] needs
// to make the DAG again without hashing its source, 32 bytes for each leaf. It
// works for one file of more than one leaf and without metadata; for others
// the error matches [errors.ErrUnsupported].
func (d *DAG) MarshalBinary() ([]byte, error) {
	n := d.nodes.at(0)
	f, ok := n.body.(*file)
	if !ok || d.nodes.n != 1 || n.stat != nil {
		return nil, fmt.Errorf("plan of a DAG that is not one plain file: %w", errors.ErrUnsupported)
	}
	l := f.layout
	header, err := json.Marshal(planHeader{d.profile, d.Size(), d.Root().String(), len(l.ends)})
	if err != nil {
		return nil, err
	}
	digests := f.digests[:l.leaves*digestSize]
	p := make([]byte, 0, len(planMagic)+len(header)+2*binary.MaxVarintLen64+4*len(l.ends)+len(digests)+sha256.Size)
	p = append(p, planMagic...)
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

var errPlan = errors.New("not a plan of this file")

func badPlan(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errPlan, fmt.Sprintf(format, args...))
}

// RestoreFile makes a DAG of src and what [DAG.MarshalBinary] returned when src
// was described. Nothing of the source is read: that it is still the same is
// for the caller to know, and shows at the latest when its blocks are sent.
func RestoreFile(src car.Source, plan []byte) (*DAG, error) {
	h, rest, err := parsePlan(plan)
	if err != nil {
		return nil, err
	}
	if h.Size != src.Size() {
		return nil, badPlan("%q has %d bytes, the plan is for %d", src.Name(), src.Size(), h.Size)
	}
	b, err := newBuilder(Options{Profile: h.Profile})
	if err != nil {
		return nil, badPlan("%v", err)
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
		return nil, badPlan("its digests give root %s, not %s", root, h.Root)
	}
	b.dag.described = time.Now() // it is the file that the plan was kept for
	return b.dag, nil
}

// parsePlan checks the frame of a plan and returns what follows the header.
func parsePlan(plan []byte) (h planHeader, rest []byte, err error) {
	if len(plan) < len(planMagic)+sha256.Size || string(plan[:len(planMagic)]) != planMagic {
		return h, nil, badPlan("it does not begin as one")
	}
	body := plan[:len(plan)-sha256.Size]
	if digest := sha256.Sum256(body); !bytes.Equal(digest[:], plan[len(body):]) {
		return h, nil, badPlan("its checksum is wrong")
	}
	body = body[len(planMagic):]
	n, used := binary.Uvarint(body)
	if used <= 0 || n > uint64(len(body)-used) {
		return h, nil, badPlan("its header is cut")
	}
	if err := json.Unmarshal(body[used:used+int(n)], &h); err != nil {
		return h, nil, badPlan("header: %v", err)
	}
	return h, body[used+int(n):], nil
}

// restoreLayout makes the layout of a file, and leaves the digests of its
// leaves in rest. It makes nothing that is larger than what the plan holds.
func restoreLayout(b *builder, n *node, h planHeader, rest *[]byte) (*file, error) {
	p := &b.dag.plain
	if b.cutter == nil {
		chunk := int64(p.ChunkBytes)
		leaves := h.Size/chunk + min(h.Size%chunk, 1)
		if h.Cuts != 0 || h.Size <= 0 || b.oneLeaf(h.Size) || leaves != int64(len(*rest)/digestSize) || len(*rest)%digestSize != 0 {
			return nil, badPlan("%d bytes of digests for a file of %d bytes", len(*rest), h.Size)
		}
		return &file{layout: newLayout(p, h.Size, n.meta())}, nil
	}
	if h.Cuts < 1 || h.Cuts > len(*rest)/(digestSize+1) {
		return nil, badPlan("%d leaves in %d bytes", h.Cuts, len(*rest))
	}
	ends := make([]int64, 0, h.Cuts)
	var last int64
	for range h.Cuts {
		k, used := binary.Uvarint(*rest)
		if used <= 0 || k == 0 || k > car.MaxBlockBytes {
			return nil, badPlan("length of leaf %d", len(ends))
		}
		*rest = (*rest)[used:]
		last += int64(k)
		ends = append(ends, last)
	}
	if last != h.Size || len(*rest) != h.Cuts*digestSize {
		return nil, badPlan("leaves of %d bytes for a file of %d", last, h.Size)
	}
	return &file{layout: newCutLayout(p, h.Size, ends, n.meta())}, nil
}
