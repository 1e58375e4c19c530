package gen_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The committed files are what the generators write.
func TestUpToDate(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"./shani", "-pkg", "sha256mb", "-out", filepath.Join(dir, "shani_amd64.s"), "-stubs", filepath.Join(dir, "shani_amd64.go")},
		{"./sha2", "-out", filepath.Join(dir, "sha2_arm64.s")},
	} {
		if out, err := exec.Command("go", append([]string{"run"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("go run %v: %v\n%s", args, err, out)
		}
	}
	for _, name := range []string{"shani_amd64.s", "shani_amd64.go", "sha2_arm64.s"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		// The first line contains the names of the files.
		_, got, _ = bytes.Cut(got, []byte("\n"))
		_, want, _ = bytes.Cut(want, []byte("\n"))
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its generator writes: run go generate", name)
		}
	}
}
