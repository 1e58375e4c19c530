//go:build unix

package cli_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/uploader/uploadertest"
)

// Kubo 0.43 made or read these archives, and computed these roots and contents.
const (
	hello = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"
	other = "bafkreid6j6roxdd2ycexhhk557cerh5nncqqbwjaqlfdlrvubjcsjaq7q4"
	split = "bafybeiabrguh7r4rrzhqveeavqcyjbxpkj3od5723uvl2gvlx6m55iobny"
	// identity-root.car: a file of two leaves whose CID contains its node.
	inlineFile = "bafyaazysfmfciakvciqmfzugqi2ittwsaf7wawnywi4tdc3dmt3nzwbv2csrsec2d2w5nzasaamoqbysfmfciakvciqdoofc7wujsjqilxxxxhj4vj5amxd3xarta3ajrdux25qauhwzx3isaampiaykbmeaegg4bmqoqbza6qbq"
)

// carOf writes an archive by hand: a header with these roots, and sections.
func carOf(t *testing.T, roots []string, sections ...[]byte) []byte {
	t.Helper()
	head := []byte{0xa2, 0x65, 'r', 'o', 'o', 't', 's', 0x80 | byte(len(roots))}
	for _, r := range roots {
		c, err := cid.Decode(r)
		if err != nil {
			t.Fatal(err)
		}
		head = append(append(head, 0xd8, 0x2a, 0x58, byte(1+len(c.Bytes())), 0), c.Bytes()...)
	}
	head = append(head, 0x67, 'v', 'e', 'r', 's', 'i', 'o', 'n', 1)
	out := append(binary.AppendUvarint(nil, uint64(len(head))), head...)
	for _, s := range sections {
		out = append(append(out, binary.AppendUvarint(nil, uint64(len(s)))...), s...)
	}
	return out
}

// block returns a CID with this codec and hash, and the section of its block.
func block(t *testing.T, codec, hash uint64, data string) (name string, section []byte) {
	t.Helper()
	mh, err := multihash.Sum([]byte(data), hash, -1)
	if err != nil {
		t.Fatal(err)
	}
	c := cid.NewCidV1(codec, mh)
	return c.String(), append(c.Bytes(), data...)
}

// inlineDir is a directory node with one entry: that CID.
func inlineDir(t *testing.T, entry string) string {
	t.Helper()
	c, err := cid.Decode(entry)
	if err != nil {
		t.Fatal(err)
	}
	link := append([]byte{0x0a, byte(c.ByteLen())}, c.Bytes()...)
	link = append(link, 0x12, 1, 'x', 0x18, 1)
	return string(append(append([]byte{0x12, byte(len(link))}, link...), 0x0a, 2, 8, 1))
}

// Every archive found in the wild is uploaded and verified, or refused with a
// clear error.
func TestAwkwardArchives(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	cases := filepath.Join("..", "..", "..", "..", "testdata", "awkward")
	found, err := os.ReadDir(cases)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(home, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range found {
		data, err := os.ReadFile(filepath.Join(cases, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		write(f.Name(), data)
	}
	two, err := os.ReadFile(filepath.Join(home, "tworoots.car"))
	if err != nil {
		t.Fatal(err)
	}
	write("pad1.car", append(bytes.Clone(two), 0))
	write("padlong.car", append(bytes.Clone(two), make([]byte, 1<<20)...))
	write("padbad.car", append(append(bytes.Clone(two), make([]byte, 1<<19)...), 1))
	helloRoot, helloSection := block(t, links.Raw, multihash.SHA2_256, "hello world\n")
	if helloRoot != hello {
		t.Fatal(helloRoot)
	}
	write("lacking.car", carOf(t, []string{hello, other, hello}, helloSection))
	inner, _ := block(t, links.Raw, multihash.IDENTITY, "x")
	innerDir, _ := block(t, links.DagPB, multihash.IDENTITY, inlineDir(t, inner))
	nested, nestedSection := block(t, links.DagPB, multihash.SHA2_256, inlineDir(t, innerDir))
	write("nested.car", carOf(t, []string{nested}, nestedSection))
	c, _ := cid.Decode(inner)
	cborRoot, cborSection := block(t, links.DagCBOR, multihash.SHA2_256, "\x81\xd8\x2a"+string([]byte{0x40 | byte(1+c.ByteLen()), 0})+string(c.Bytes()))
	write("cbor.car", carOf(t, []string{cborRoot}, cborSection))
	inlineToHello, _ := block(t, links.DagPB, multihash.IDENTITY, inlineDir(t, hello))
	write("inline-no-section.car", carOf(t, []string{inlineToHello}, helloSection))
	write("inline-lacking.car", carOf(t, []string{inlineToHello}))

	for name, tt := range map[string]struct {
		args  []string
		roots string // uploaded and verified roots
		code  int
		says  string
	}{
		"zero padding":                 {[]string{"zeropad.car"}, hello, 0, ""},
		"zero padding within CARv2":    {[]string{"v2-zeropad.car"}, split, 0, ""},
		"one zero":                     {[]string{"pad1.car"}, hello + " " + other, 0, ""},
		"many zeros":                   {[]string{"padlong.car"}, hello + " " + other, 0, ""},
		"zeros and more":               {[]string{"padbad.car"}, "", 3, "not only zeros"},
		"two roots":                    {[]string{"tworoots.car"}, hello + " " + other, 0, ""},
		"one of two roots":             {[]string{"tworoots.car", "--root", other}, other, 0, ""},
		"no roots":                     {[]string{"noroots.car"}, "", 3, "--root"},
		"no roots, and one is named":   {[]string{"noroots.car", "--root", hello}, hello, 0, ""},
		"a root that is not there":     {[]string{"noroots.car", "--root", other}, "", 3, "incomplete"},
		"not a root":                   {[]string{"noroots.car", "--root", "x"}, "", 2, "not a CID"},
		"one of three roots is not in": {[]string{"lacking.car"}, hello, 3, "incomplete"},
		"two shards":                   {[]string{"split-0.car", "split-1.car"}, split, 0, ""},
		"two shards, the last first":   {[]string{"split-1.car", "split-0.car"}, split, 0, ""},
		"two shards, and another":      {[]string{"split-0.car", "split-1.car", "zeropad.car"}, split + " " + hello, 0, ""},
		"one shard":                    {[]string{"split-0.car"}, "", 3, "give all of them"},
		"shards apart":                 {[]string{"split-0.car", "zeropad.car", "split-1.car"}, hello, 3, "give all of them"},
		"one file inlined":             {[]string{"ti1.car"}, "bafybeigq2rkj373qyvunj4tefju3juga2dw3qio6yoow32krhnyquwgcme", 0, ""},
		"three files inlined":          {[]string{"ti3.car"}, "bafybeig7bok4e5xgwk6ypv7zpv57uef237ladh4cfwrgz67kfs57sm6auq", 0, ""},
		"twenty files inlined":         {[]string{"ti20.car"}, "bafybeibasiblnn6mp42plfzwjx63o2j4rwp6nbcc3jfvlvoksy5gkideiu", 0, ""},
		"inlined without a section":    {[]string{"inl-dir.car"}, "bafybeib62lpbqdqclaosmiyc6siwormuryywkphxwnjddbgukngb7c2hvq", 0, ""},
		"inlined with a section":       {[]string{"inl-dir-section.car"}, "bafybeib62lpbqdqclaosmiyc6siwormuryywkphxwnjddbgukngb7c2hvq", 0, ""},
		"inlined twice over":           {[]string{"nested.car"}, nested, 0, ""},
		"inlined below CBOR":           {[]string{"cbor.car"}, cborRoot, 0, ""},
		"a root within its CID":        {[]string{"inline-root.car"}, "bafkqabdunfxhs", 0, ""},
		"a file within its CID":        {[]string{"identity-root.car"}, inlineFile, 0, ""},
		"such a root has no section":   {[]string{"inline-no-section.car"}, inlineToHello, 0, ""},
		"and lacks what it links to":   {[]string{"inline-lacking.car"}, "", 3, "incomplete"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			cmd := newCommand(t, home, append([]string{"up", "-Q", "--store", t.TempDir(), "--ledger", "none", "--verify", "full"}, tt.args...)...)
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if code := exitCode(cmd.Run()); code != tt.code || !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("exit code %d, want %d\n%s", code, tt.code, stderr.String())
			}
			want := map[string]int{}
			for _, r := range strings.Fields(tt.roots) {
				want[r]++
			}
			for _, r := range strings.Fields(stdout.String()) {
				want[r]--
			}
			for r, n := range want {
				if n != 0 {
					t.Errorf("root %s: %+d", r, n)
				}
			}
			if tt.code != 0 || len(tt.args) > 1 {
				return
			}
			// All commands that read archives treat them alike.
			for _, verb := range []string{"cid", "verify", "inspect", "ls"} {
				args := []string{verb, tt.args[0]}
				if verb == "ls" && (len(want) > 1 || strings.HasPrefix(tt.roots, "bafyrei")) {
					continue // unpack takes one root, and CBOR has no files
				}
				var stderr bytes.Buffer
				cmd := newCommand(t, home, args...)
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil || verb != "ls" && !strings.Contains(string(out), strings.Fields(tt.roots)[0]) {
					t.Errorf("%s: %v, %s\n%s", verb, err, out, stderr.String())
				}
			}
		})
	}
}

// carload does not call a block intact that it has not hashed.
func TestNotLookedAt(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	_, section := block(t, links.Raw, multihash.SHA2_256, "hello world\n")
	sound := carOf(t, []string{hello}, section)
	flipped := bytes.Clone(sound)
	flipped[len(flipped)-1] ^= 1
	for name, data := range map[string][]byte{"sound.car": sound, "flipped.car": flipped} {
		if err := os.WriteFile(filepath.Join(home, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, int) {
		cmd := newCommand(t, home, args...)
		out, err := cmd.CombinedOutput()
		return string(out), exitCode(err)
	}
	for _, verb := range []string{"inspect", "ls"} {
		if out, code := run(verb, "flipped.car"); code != 0 || !strings.Contains(out, "were not hashed: carload verify checks them") {
			t.Errorf("%s: exit code %d\n%s", verb, code, out)
		}
	}
	if out, code := run("verify", "flipped.car"); code != 6 {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
	if out, code := run("up", "flipped.car"); code != 6 {
		t.Errorf("up of a damaged archive: exit code %d\n%s", code, out)
	}
	if out, code := run("up", "sound.car"); code != 0 || strings.Contains(out, "was not read") {
		t.Errorf("up of a sound one: exit code %d\n%s", code, out)
	}
	if out, code := run("up", "flipped.car"); code != 0 && code != 6 || code == 0 && !strings.Contains(out, "it did not read the file again, which carload verify does") {
		t.Errorf("up of a damaged one that the service holds sound: exit code %d\n%s", code, out)
	}
}

// What is not UnixFS is reported as such, and not as corrupt. A name or target
// that no file can have is an error of this machine.
func TestAwkwardTrees(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	cborRoot, cborSection := block(t, links.DagCBOR, multihash.SHA2_256, "\xa0")
	inDir, dirSection := block(t, links.DagPB, multihash.SHA2_256, inlineDir(t, cborRoot))
	for name, data := range map[string][]byte{
		"cbor.car": carOf(t, []string{cborRoot}, cborSection), "indir.car": carOf(t, []string{inDir}, dirSection, cborSection),
	} {
		if err := os.WriteFile(filepath.Join(home, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cases, err := filepath.Abs(filepath.Join("..", "..", "..", "..", "testdata", "awkward"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"ls", "cbor.car"}, 1, "of another kind"},
		{[]string{"ls", "indir.car"}, 1, "of another kind"},
		{[]string{"unpack", "cbor.car", "-o", "x"}, 1, "of another kind"},
		{[]string{"verify", "cbor.car"}, 0, "complete"},
		{[]string{"unpack", filepath.Join(cases, "name-300.car"), "-o", "n"}, 1, "file name too long"},
		{[]string{"unpack", filepath.Join(cases, "sym5000.car"), "-o", "s"}, 1, "file name too long"},
		{[]string{"unpack", filepath.Join(cases, "mtime-neg.car"), "-o", "m"}, 0, "restored"},
		{[]string{"unpack", filepath.Join(cases, "bs-fewer.car"), "-o", "cbor.car"}, 1, "not a directory"},
		{[]string{"pack", "cbor.car", "-o", "indir.car/x"}, 1, "file exists"},
	} {
		out, err := newCommand(t, home, tt.args...).CombinedOutput()
		if code := exitCode(err); code != tt.code || !strings.Contains(string(out), tt.says) || strings.Contains(string(out), `"":`) {
			t.Errorf("%v: exit code %d, want %d with %q\n%s", tt.args, code, tt.code, tt.says, out)
		}
	}
	// A listing that nobody reads to the end prints no error.
	for _, args := range [][]string{{"ls", filepath.Join(cases, "ti20.car")}, {"inspect", "cbor.car"}, {"profiles"}, {"version", "--json"}} {
		var stderr bytes.Buffer
		cmd := newCommand(t, home, append(args, "-q")...)
		cmd.Stdout, cmd.Stderr = brokenPipe(t), &stderr
		if code := exitCode(cmd.Run()); code != 1 || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d\n%s", args, code, stderr.String())
		}
	}
}

// The service gets the same name at each attempt, and never the path.
func TestNameOfARetry(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args  []string
		stdin string
		want  string
	}{
		"a file by its path":    {[]string{"sub/secret/f.bin"}, "", "f.bin"},
		"a folder":              {[]string{"sub/secret"}, "", "secret"},
		"standard input":        {[]string{"-"}, "bytes", ""},
		"several, wrapped":      {[]string{"--wrap", "sub/secret/f.bin", "sub"}, "", ""},
		"the current directory": {[]string{"."}, "", ""},
		"with --name":           {[]string{"--name", "my own", "sub"}, "", "my%20own"},
		"stdin with --name":     {[]string{"--name", "tar", "-"}, "bytes", "tar"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			var mu sync.Mutex
			var names []string
			log := func(fail bool) uploadertest.Fault {
				return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					mu.Lock()
					names = append(names, r.Header.Get("X-Name"))
					mu.Unlock()
					if fail {
						w.WriteHeader(http.StatusBadGateway)
						return
					}
					next.ServeHTTP(w, r)
				}
			}
			srv.Script(uploadertest.Upload, log(true), log(false))
			home := t.TempDir()
			path := filepath.Join(home, "sub", "secret", "f.bin")
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("some bytes"), 0o600)); err != nil {
				t.Fatal(err)
			}
			cmd := upTo(t, srv, home, tt.args...)
			cmd.Stdin = strings.NewReader(tt.stdin)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(names) != 2 || names[0] != tt.want || names[1] != tt.want {
				t.Errorf("the service got the names %q, want %q twice", names, tt.want)
			}
		})
	}
}
