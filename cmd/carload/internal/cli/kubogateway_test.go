//go:build unix

package cli_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/uploader/targettest"
)

// TestTargetKuboGateway fetches from Kubo's gateway what Kubo made: a file of
// several levels, a tree, a sharded directory and symlinks come back unchanged,
// and can be verified, even beside a gateway that has nothing.
func TestTargetKuboGateway(t *testing.T) {
	t.Parallel()
	gateway := "http://" + freeAddress(t)
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(gateway, "http://"))
	node := targettest.StartKubo(t, "Addresses.Gateway", `"/ip4/`+host+`/tcp/`+port+`"`, "Gateway.NoFetch", "true",
		"Import.UnixFSHAMTDirectorySizeThreshold", `"4KiB"`)
	empty := "http://" + freeAddress(t) // nobody listens there
	home := t.TempDir()
	tree := filepath.Join(home, "tree")
	random := rand.NewChaCha8([32]byte{11})
	write := func(name string, n int) {
		t.Helper()
		p := make([]byte, n)
		_, _ = random.Read(p)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, name), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("movie", 21<<20+12345)
	write("empty", 0)
	write("deep/er/file", 300_000)
	for i := range 700 {
		write(fmt.Sprintf("sharded/entry-%d", i), i)
	}
	if err := os.Symlink("../movie", filepath.Join(tree, "deep", "link")); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"version 1": {"--cid-version=1"}, "version 0": nil, "small chunks": {"--cid-version=1", "--chunker=size-4096"}, "trickle": {"--trickle", "--raw-leaves"},
	} {
		root := string(bytes.TrimSpace(node.Run(t, nil, append(append([]string{"add", "-r", "-Q"}, flags...), tree)...)))
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(home, name)
			if msg, err := newCommand(t, home, "get", root, "--gateway", empty, "--gateway", gateway, "-o", out).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, msg)
			}
			sameTree(t, out, tree)
			msg, err := newCommand(t, home, "verify", root, "--full", "--gateway", gateway).CombinedOutput()
			if err != nil || !bytes.Contains(msg, []byte(root+"\tfull")) {
				t.Errorf("%v: %s", err, msg)
			}
			msg, err = newCommand(t, home, "verify", root, "--from", empty, "--from", gateway).CombinedOutput()
			if err != nil || !bytes.Contains(msg, []byte(root+"\tsample")) {
				t.Errorf("%v: %s", err, msg)
			}
			archive := filepath.Join(home, name+".car")
			if msg, err := newCommand(t, home, "get", root, "--car", "--gateway", gateway, "-o", archive).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, msg)
			}
			p, err := os.ReadFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			if exported := node.Run(t, nil, "dag", "export", root); !bytes.Equal(p, exported) {
				t.Errorf("an archive of %d bytes is not the one of %d that Kubo exports", len(p), len(exported))
			}
		})
	}
	// verify reports what the gateway lacks.
	if code := exitCode(newCommand(t, home, "verify", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", "--full", "--gateway", gateway).Run()); code != 4 {
		t.Errorf("exit code %d for what is not there", code)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// sameTree compares two directories: names, kinds, contents.
func sameTree(t *testing.T, got, want string) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(want, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		other := filepath.Join(got, rel)
		info, err := os.Lstat(other)
		if err != nil {
			return err
		}
		switch {
		case info.Mode().Type() != d.Type():
			t.Errorf("%s is a %v, want %v", rel, info.Mode().Type(), d.Type())
		case d.Type() == fs.ModeSymlink:
			a, _ := os.Readlink(path)
			b, _ := os.Readlink(other)
			if a != b {
				t.Errorf("%s leads to %s, want %s", rel, b, a)
			}
		case d.Type().IsRegular():
			a, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(other)
			if err != nil {
				return err
			}
			if !bytes.Equal(a, b) {
				t.Errorf("%s has other content", rel)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	there := 0
	if err := filepath.WalkDir(got, func(string, fs.DirEntry, error) error { there++; return nil }); err != nil || there != seen {
		t.Errorf("%d names, want %d: %v", there, seen, err)
	}
}
