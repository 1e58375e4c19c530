package piece_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"math/rand" //nolint:depguard // the vectors are made with the generator of its first version
	randv2 "math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/iotest"

	commcid "github.com/filecoin-project/go-fil-commcid"
	commp "github.com/filecoin-project/go-fil-commp-hashhash"
	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car/piece"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// random returns the same bytes for the same length.
func random(n int) []byte {
	p := make([]byte, n)
	_, _ = randv2.NewChaCha8([32]byte{byte(n)}).Read(p)
	return p
}

func sum(t testing.TB, p []byte) piece.Piece {
	t.Helper()
	h := new(piece.Pool).NewHasher()
	defer h.Close()
	if _, err := h.Write(p); err != nil {
		t.Fatal(err)
	}
	return h.Sum()
}

// oracle is the result of the reference implementation. Short inputs are padded
// to the minimum that it takes.
func oracle(t testing.TB, raw []byte) (v1, v2 cid.Cid, padded int64) {
	t.Helper()
	var calc commp.Calc
	filled := raw
	if len(raw) < 127 {
		filled = append(bytes.Clone(raw), make([]byte, 127-len(raw))...)
	}
	_, _ = calc.Write(filled)
	digest, size, err := calc.Digest()
	if err != nil {
		t.Fatal(err)
	}
	v1, err = commcid.DataCommitmentV1ToCID(digest)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) >= 127 { // the reference refuses less
		if v2, err = commcid.DataCommitmentToPieceCidv2(digest, uint64(len(raw))); err != nil {
			t.Fatal(err)
		}
	}
	return v1, v2, int64(size)
}

func check(t testing.TB, raw []byte) {
	t.Helper()
	got := sum(t, raw)
	v1, v2, padded := oracle(t, raw)
	if got.V1() != v1 || got.PaddedSize() != padded || got.RawSize != int64(len(raw)) {
		t.Fatalf("%d bytes: %s of %d in %d, want %s in %d", len(raw), got.V1(), got.RawSize, got.PaddedSize(), v1, padded)
	}
	if v2.Defined() && got.V2() != v2 {
		t.Fatalf("%d bytes: version 2 %s, want %s", len(raw), got.V2(), v2)
	}
}

// TestSpecification checks the vectors of FRC-0069.
func TestSpecification(t *testing.T) {
	quads := func(tail int) []byte {
		var p []byte
		for i := range 4 {
			p = append(p, bytes.Repeat([]byte{byte(i)}, 127)...)
		}
		return append(p, make([]byte, tail)...)
	}
	for _, c := range []struct {
		data   []byte
		v1, v2 string
	}{
		{quads(0), "baga6ea4seaqes3nobte6ezpp4wqan2age2s5yxcatzotcvobhgcmv5wi2xh5mbi", "bafkzcibcaaces3nobte6ezpp4wqan2age2s5yxcatzotcvobhgcmv5wi2xh5mbi"},
		{nil, "baga6ea4seaqdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy", "bafkzcibcp4bdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy"},
		{make([]byte, 127), "baga6ea4seaqdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy", "bafkzcibcaabdomn3tgwgrh3g532zopskstnbrd2n3sxfqbze7rxt7vqn7veigmy"},
		{make([]byte, 128), "baga6ea4seaqgiktap34inmaex4wbs6cghlq5i2j2yd2bb2zndn5ep7ralzphkdy", "bafkzcibcpybwiktap34inmaex4wbs6cghlq5i2j2yd2bb2zndn5ep7ralzphkdy"},
		{quads(127 * 4), "baga6ea4seaqn42av3szurbbscwuu3zjssvfwbpsvbjf6y3tukvlgl2nf5rha6pa", "bafkzcibcaac542av3szurbbscwuu3zjssvfwbpsvbjf6y3tukvlgl2nf5rha6pa"},
		{quads(4), "baga6ea4seaqn42av3szurbbscwuu3zjssvfwbpsvbjf6y3tukvlgl2nf5rha6pa", "bafkzcibd7abqlxticxolgseegik2stpfgkkuwyf6kufex3doorkvmzpjuxwe4dz4"},
		{quads(5), "baga6ea4seaqn42av3szurbbscwuu3zjssvfwbpsvbjf6y3tukvlgl2nf5rha6pa", "bafkzcibd64bqlxticxolgseegik2stpfgkkuwyf6kufex3doorkvmzpjuxwe4dz4"},
	} {
		if p := sum(t, c.data); p.V1().String() != c.v1 || p.V2().String() != c.v2 {
			t.Errorf("%d bytes: %s and %s", len(c.data), p.V1(), p.V2())
		}
	}
	for size, want := range map[int64]string{
		32 << 30: "bafkzcibcaapao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq",
		64 << 30: "bafkzcibcaap6mqafu276g53zko4k23xzh4h4uecjwicbmvhsuqi7o4bhthhm4aq",
	} {
		if got := piece.ZeroPiece(size).V2().String(); got != want {
			t.Errorf("%d bytes of zeros: %s", size, got)
		}
	}
}

// TestLargeZeros hashes the zeros that fill a piece of 32 GiB.
func TestLargeZeros(t *testing.T) {
	if os.Getenv("CARLOAD_TEST_LONG") == "" {
		t.Skip("hashes 32 GiB: set CARLOAD_TEST_LONG=1")
	}
	p, err := new(piece.Pool).Read(io.LimitReader(repeated(0), piece.MaxRaw(32<<30)))
	if err != nil || p.V2().String() != "bafkzcibcaapao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq" {
		t.Errorf("%s, %v", p.V2(), err)
	}
}

type repeated byte

func (r repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

// TestVectors checks results computed by Lotus.
func TestVectors(t *testing.T) {
	most := int64(140 << 20)
	if testing.Short() {
		most = 9 << 20
	}
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		most = 1 << 40
	}
	for name, reader := range map[string]func() io.Reader{
		"zero":   func() io.Reader { return repeated(0) },
		"0xCC":   func() io.Reader { return repeated(0xCC) },
		"random": func() io.Reader { return newGoRandom() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := os.Open("testdata/" + name + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			rows, err := csv.NewReader(f).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			// All vectors are prefixes of the same bytes.
			var pool piece.Pool
			h := pool.NewHasher()
			defer h.Close()
			src := reader()
			for _, row := range rows {
				size, err := strconv.ParseInt(row[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				if size > most {
					break
				}
				if _, err := io.CopyN(h, src, size-h.Sum().RawSize); err != nil {
					t.Fatal(err)
				}
				if p := h.Sum(); p.V1().String() != row[2] || strconv.FormatInt(p.PaddedSize(), 10) != row[1] {
					t.Errorf("%d bytes: %s in %d, want %s in %s", size, p.V1(), p.PaddedSize(), row[2], row[1])
				}
			}
		})
	}
}

// goRandom yields the bytes of the program go-random: the lowest byte of each
// number comes first, and no number crosses 4 MiB.
type goRandom struct {
	rand *rand.Rand
	rest []byte
}

func newGoRandom() *goRandom { return &goRandom{rand: rand.New(rand.NewSource(1337))} }

func (g *goRandom) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		g.rest = make([]byte, 4<<20)
		for i := 0; i < len(g.rest); i += 4 {
			n := g.rand.Uint32()
			g.rest[i], g.rest[i+1], g.rest[i+2], g.rest[i+3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		}
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// TestOracle compares with the reference implementation: every small size, and
// sizes around all special ones.
func TestOracle(t *testing.T) {
	small, most := 4096, 70<<20
	if testing.Short() {
		small, most = 1100, 5<<20
	}
	for n := range small + 1 {
		check(t, random(n))
	}
	near := func(n int) {
		for _, d := range []int{-128, -127, -1, 0, 1, 127} {
			if n+d > small && n+d < most {
				check(t, random(n+d))
			}
		}
	}
	for k := 5; 127<<k < most; k++ {
		near(127 << k)
		near(1 << (k + 7))
	}
	for k := 1; k*piece.TileRaw < min(most, 10*piece.TileRaw); k++ {
		near(k * piece.TileRaw)
	}
}

// TestNaive checks sizes below the minimum of the reference.
func TestNaive(t *testing.T) {
	for n := range 600 {
		checkNaive(t, random(n), 0)
	}
}

// checkNaive writes the bytes in steps and compares with the naive version.
func checkNaive(t *testing.T, raw []byte, step int) {
	t.Helper()
	h := new(piece.Pool).NewHasher()
	defer h.Close()
	for rest := raw; len(rest) > 0; {
		n := len(rest)
		if step > 0 {
			n = min(n, step)
		}
		_, _ = h.Write(rest[:n])
		rest = rest[n:]
	}
	root, padded := naive(raw)
	if p := h.Sum(); p.Commitment != root || p.PaddedSize() != int64(padded) || p.RawSize != int64(len(raw)) {
		t.Errorf("%d bytes in steps of %d: %s in %d, want %x in %d", len(raw), step, p.V1(), p.PaddedSize(), root, padded)
	}
}

func FuzzHasher(f *testing.F) {
	f.Add([]byte(nil), uint32(0), uint16(0))
	f.Add([]byte("carload"), uint32(0), uint16(1))
	f.Add([]byte{0xff}, uint32(127<<8), uint16(127))
	f.Add([]byte{1, 2, 3}, uint32(piece.TileRaw+1), uint16(9999))
	f.Fuzz(func(t *testing.T, seed []byte, size uint32, step uint16) {
		raw := seed
		if len(seed) > 0 {
			raw = bytes.Repeat(seed, 1+int(size)%(2*piece.TileRaw)/len(seed))
		}
		if len(raw) > 5000 && step < 64 {
			step = 64
		}
		checkNaive(t, raw, int(step))
		check(t, raw)
	})
}

// TestSharedPool runs many hashers on one pool. Some are abandoned, and one
// reads from a reader that yields little at a time.
func TestSharedPool(t *testing.T) {
	var pool piece.Pool
	var g errgroup.Group
	for i := range 12 {
		g.Go(func() error {
			raw := random(3*piece.TileRaw + i*1000)
			h := pool.NewHasher()
			defer h.Close()
			for step := range 7 {
				_, _ = h.Write(raw[len(raw)*step/7 : len(raw)*(step+1)/7])
				if i%3 == 0 && step == 5 {
					return nil // abandoned
				}
			}
			want := sum(t, raw)
			if got := h.Sum(); got != want {
				t.Errorf("hasher %d: %v, want %v", i, got, want)
			}
			h.Close()
			if got := h.Sum(); got != sum(t, nil) {
				t.Errorf("hasher %d: %v after it was closed", i, got)
			}
			p, err := pool.Read(iotest.HalfReader(bytes.NewReader(raw)))
			if err != nil || p != want {
				t.Errorf("reader %d: %v, %v", i, p, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestRead(t *testing.T) {
	var pool piece.Pool
	broken := errors.New("broken")
	if _, err := pool.Read(io.MultiReader(bytes.NewReader(random(5000)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	for _, n := range []int{0, 1, 5000, piece.TileRaw - 1, piece.TileRaw, piece.TileRaw + 1} {
		raw := random(n)
		for _, r := range []io.Reader{bytes.NewReader(raw), iotest.DataErrReader(bytes.NewReader(raw)), iotest.HalfReader(bytes.NewReader(raw))} {
			if p, err := pool.Read(r); err != nil || p != sum(t, raw) {
				t.Errorf("%d bytes: %v, %v", n, p, err)
			}
		}
	}
}

// TestParse decodes CIDs as the reference does, and rejects everything else.
func TestParse(t *testing.T) {
	for _, n := range []int{127, 128, 254, 255, 1000, 127 << 7, 100_000, 127 << 10, 127<<10 + 1} {
		p := sum(t, random(n))
		got, err := piece.Parse(p.V2())
		if err != nil || got != p {
			t.Errorf("%d bytes: %v, %v", n, got, err)
		}
		v1, size, err := commcid.PieceCidV1FromV2(p.V2())
		if err != nil || v1 != p.V1() || size != uint64(n) {
			t.Errorf("%d bytes: the reference says %s of %d, %v", n, v1, size, err)
		}
		got, err = piece.Parse(p.V1())
		if err != nil || got.Commitment != p.Commitment || got.RawSize != -1 {
			t.Errorf("%d bytes: %v, %v", n, got, err)
		}
	}
	// Pieces of fewer than 127 bytes are defined, but the reference refuses
	// them.
	for _, n := range []int{0, 1, 64, 126} {
		p := sum(t, random(n))
		if got, err := piece.Parse(p.V2()); err != nil || got != p {
			t.Errorf("%d bytes: %v, %v", n, got, err)
		}
	}
	// A real CID, of birb.mp4.
	birb, err := piece.Parse(cid.MustParse("bafkzcibertksae2h5gohz3y4gc6o3uvrljmh4fyz4bexjywokbejjiy63uv2vxzqcq"))
	if err != nil || birb.RawSize != 16_110_964 {
		t.Errorf("%v, %v", birb, err)
	}

	good := sum(t, random(1000))
	v2 := func(padding []byte, height byte, root []byte) cid.Cid {
		digest := append(append(bytes.Clone(padding), height), root...)
		return cid.NewCidV1(cid.Raw, append([]byte{0x91, 0x20, byte(len(digest))}, digest...))
	}
	root := good.Commitment[:]
	if p, err := piece.Parse(v2([]byte{16}, 5, root)); err != nil || p.RawSize != 1000 {
		t.Fatalf("%v, %v", p, err)
	}
	for name, c := range map[string]cid.Cid{
		"nothing":          cid.Undef,
		"a block":          cid.MustParse("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"),
		"short":            v2([]byte{16}, 5, root[:31]),
		"long":             v2([]byte{16}, 5, append(bytes.Clone(root), 0)),
		"low":              v2([]byte{0}, 1, root),
		"high":             v2([]byte{0}, 32, root),
		"much padding":     v2([]byte{0xfc, 3}, 5, root), // 508 of 1016: a tree of 4 would do
		"all padding":      v2([]byte{0xf9, 7}, 5, root), // more padding than bytes
		"endless padding":  v2(bytes.Repeat([]byte{0xff}, 11), 5, root),
		"255 bits":         v2([]byte{16}, 5, append(bytes.Clone(root[:31]), 0x40)),
		"v1 short":         cid.NewCidV1(0xf101, append([]byte{0x92, 0x20, 31}, root[:31]...)),
		"v1 other codec":   cid.NewCidV1(cid.Raw, append([]byte{0x92, 0x20, 32}, root...)),
		"v1 other hash":    cid.NewCidV1(0xf101, append([]byte{0x12, 32}, root...)),
		"v2 with v1 codec": cid.NewCidV1(0xf101, v2([]byte{16}, 5, root).Hash()),
	} {
		if p, err := piece.Parse(c); !errors.Is(err, piece.ErrNotPiece) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}

// TestTooLarge checks that nothing is added beyond the largest piece.
func TestTooLarge(t *testing.T) {
	if got := piece.PaddedSize(piece.MaxRawSize); got != 64<<30 {
		t.Errorf("the largest piece has %d bytes", got)
	}
	h := new(piece.Pool).NewHasher()
	defer h.Close()
	piece.Skip(h, piece.MaxRawSize-10)
	if n, err := h.Write(make([]byte, 11)); n != 0 || !errors.Is(err, piece.ErrTooLarge) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := h.ReadFrom(bytes.NewReader(make([]byte, 11))); n != 0 || !errors.Is(err, piece.ErrTooLarge) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := h.ReadFrom(bytes.NewReader(make([]byte, 5))); n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := h.Write(make([]byte, 5)); n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func BenchmarkHasher(b *testing.B) {
	data := random(64 << 20)
	bench := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				f()
			}
			// Unlike wall time, CPU time does not depend on other load.
			spent := (cpuTime() - before).Seconds()
			b.ReportMetric(float64(b.N)*float64(len(data))/spent/(1<<20), "MiB/cpu-s")
		})
	}
	var pool piece.Pool
	bench("carload", func() {
		h := pool.NewHasher()
		defer h.Close()
		for p := data; len(p) > 0; p = p[min(len(p), 4<<20):] {
			_, _ = h.Write(p[:min(len(p), 4<<20)])
		}
		h.Sum()
	})
	bench("hashhash", func() {
		var calc commp.Calc
		_, _ = calc.Write(data)
		_, _, _ = calc.Digest()
	})
}
