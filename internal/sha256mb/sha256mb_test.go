package sha256mb_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/carload/carload/internal/sha256mb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noise returns n bytes that depend only on the seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// checkSum compares Sum with crypto/sha256.
func checkSum(t *testing.T, msgs [][]byte) {
	t.Helper()
	out := make([][sha256mb.Size]byte, len(msgs))
	sha256mb.Sum(out, msgs)
	for i, m := range msgs {
		if out[i] != sha256.Sum256(m) {
			t.Fatalf("message %d of %d, %d bytes: wrong digest", i, len(msgs), len(m))
		}
	}
}

// The vectors of FIPS 180-2, appendix B, and the digest of the empty message.
func TestSumKnown(t *testing.T) {
	vectors := []struct{ msg, want string }{
		{"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{
			"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
			"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
		},
		{
			string(bytes.Repeat([]byte("a"), 1_000_000)),
			"cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
		},
	}
	sha256mb.EachKernel(t, func(t *testing.T) {
		var msgs [][]byte
		for _, v := range vectors {
			msgs = append(msgs, []byte(v.msg))
		}
		out := make([][sha256mb.Size]byte, len(msgs))
		sha256mb.Sum(out, msgs)
		for i, v := range vectors {
			if got := hex.EncodeToString(out[i][:]); got != v.want {
				t.Errorf("message %d: got %s, want %s", i, got, v.want)
			}
			var d sha256mb.Digest
			_, _ = d.Write(msgs[i])
			if got := d.Sum256(); hex.EncodeToString(got[:]) != v.want {
				t.Errorf("digest %d: got %x, want %s", i, got, v.want)
			}
		}
	})
}

func TestSumLengths(t *testing.T) {
	buf := noise(1, 1100)
	var lengths []int
	for n := range 1025 {
		lengths = append(lengths, n)
	}
	sha256mb.EachKernel(t, func(t *testing.T) {
		for _, n := range lengths {
			checkSum(t, [][]byte{buf[:n]})
			checkSum(t, [][]byte{buf[:n], buf[1 : n+1], buf[2 : n+2], buf[3 : n+3]})
		}
		var all [][]byte
		for _, n := range lengths {
			all = append(all, buf[:n])
		}
		checkSum(t, all)
		slices.Reverse(all)
		checkSum(t, all)
	})
}

// Lengths around the most that a kernel gets in one call.
func TestSumLong(t *testing.T) {
	buf := noise(2, 200<<10)
	sha256mb.EachKernel(t, func(t *testing.T) {
		for _, around := range []int{4 << 10, 64 << 10, 128 << 10} {
			var msgs [][]byte
			for n := around - 65; n <= around+65; n += 13 {
				msgs = append(msgs, buf[:n])
			}
			checkSum(t, msgs)
		}
	})
}

func TestSumUnaligned(t *testing.T) {
	buf := noise(3, 1024)
	sha256mb.EachKernel(t, func(t *testing.T) {
		for off := range 64 {
			checkSum(t, [][]byte{
				buf[off : off+300], buf[63-off : 63-off+300],
				buf[off : off+301], buf[off/2 : off/2+128],
			})
		}
	})
}

func TestSumMixes(t *testing.T) {
	buf := noise(4, 70<<10)
	sha256mb.EachKernel(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(4, 4))
		for count := range 21 {
			for range 20 {
				msgs := make([][]byte, count)
				for i := range msgs {
					most := []int{65, 300, 5000, len(buf)}[rng.IntN(4)]
					n := rng.IntN(most)
					off := rng.IntN(len(buf) - n)
					msgs[i] = buf[off : off+n]
				}
				checkSum(t, msgs)
			}
		}
	})
}

func TestDigestSplits(t *testing.T) {
	buf := noise(5, 5000)
	sha256mb.EachKernel(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(5, 5))
		var d sha256mb.Digest
		for range 500 {
			d.Reset()
			msg := buf[:rng.IntN(len(buf))]
			most := []int{2, 70, 200, 3000}[rng.IntN(4)]
			for at := 0; at < len(msg); {
				n := min(rng.IntN(most+1), len(msg)-at)
				if got, err := d.Write(msg[at : at+n]); got != n || err != nil {
					t.Fatalf("Write(%d bytes) = %d, %v", n, got, err)
				}
				at += n
				if rng.IntN(4) == 0 && d.Sum256() != sha256.Sum256(msg[:at]) {
					t.Fatalf("after %d of %d bytes: wrong digest", at, len(msg))
				}
			}
			if d.Sum256() != sha256.Sum256(msg) {
				t.Fatalf("%d bytes: wrong digest", len(msg))
			}
		}
	})
}

func TestDigestOfNothing(t *testing.T) {
	sha256mb.EachKernel(t, func(t *testing.T) {
		want := sha256.Sum256(nil)
		var d sha256mb.Digest
		if d.Sum256() != want {
			t.Error("zero value: wrong digest")
		}
		_, _ = d.Write(nil)
		if d.Sum256() != want {
			t.Error("after an empty write: wrong digest")
		}
		_, _ = d.Write([]byte("x"))
		d.Reset()
		if d.Sum256() != want {
			t.Error("after Reset: wrong digest")
		}
	})
}

func TestUpdateMixes(t *testing.T) {
	buf := noise(6, 80<<10)
	sha256mb.EachKernel(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(6, 6))
		for count := range 12 {
			ds := make([]*sha256mb.Digest, count)
			refs := make([][]byte, count)
			for i := range ds {
				ds[i] = new(sha256mb.Digest)
			}
			for range 30 {
				data := make([][]byte, count)
				for i := range data {
					most := []int{1, 64, 200, 70 << 10}[rng.IntN(4)]
					n := rng.IntN(most + 1)
					off := rng.IntN(len(buf) - n)
					data[i] = buf[off : off+n]
					refs[i] = append(refs[i], data[i]...)
				}
				sha256mb.Update(ds, data)
			}
			for i, d := range ds {
				if d.Sum256() != sha256.Sum256(refs[i]) {
					t.Fatalf("digest %d of %d, %d bytes: wrong", i, count, len(refs[i]))
				}
			}
		}
	})
}

func TestAllocations(t *testing.T) {
	if !sha256mb.Lanes() {
		t.Skip("crypto/sha256 does the work here")
	}
	buf := noise(7, 64<<10)
	msgs := [][]byte{buf[:100], buf, buf[:1000], nil, buf[5:4000], buf[:64]}
	out := make([][sha256mb.Size]byte, len(msgs))
	ds := make([]*sha256mb.Digest, len(msgs))
	for i := range ds {
		ds[i] = new(sha256mb.Digest)
	}
	var pool sha256mb.Pool
	pairs := make([]byte, len(buf)/2)
	for name, f := range map[string]func(){
		"Sum":    func() { sha256mb.Sum(out, msgs) },
		"Update": func() { sha256mb.Update(ds, msgs) },
		"Digest": func() { _, _ = ds[0].Write(buf); out[0] = ds[0].Sum256(); ds[0].Reset() },
		"Pool":   func() { pool.Write(ds[1], buf) },
		"Pool.Sum": func() {
			w := pool.Start(ds[1], buf)
			pool.Sum(out, msgs)
			w.Wait()
		},
		"Pairs": func() { sha256mb.SumPairs(pairs, buf) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
