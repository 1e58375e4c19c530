//go:build linux

package cli_test

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/carload/carload/uploader/uploadertest"
)

// badEntry creates an entry that can't be taken; there are six kinds.
func badEntry(i int, path string) (made string, err error) {
	switch i % 6 {
	case 0:
		path += "\xff"
		return path, os.WriteFile(path, nil, 0o600)
	case 1:
		return path, syscall.Mkfifo(path, 0o600)
	case 2:
		return path, os.Symlink("nothing", path)
	case 3:
		return path, os.Symlink(filepath.Base(path), path)
	case 4:
		return path, os.Symlink("/proc/version", path)
	default:
		return path, os.Symlink("..", path)
	}
}

// One run names all entries of a folder that can't be taken. --skip-errors
// takes the others. When the bad ones are fixed, feeding the report back sends
// just those.
func TestBadEntries(t *testing.T) {
	t.Parallel()
	files, bad := 600, 60
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		files, bad = 60_000, 600
	}
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	home := t.TempDir()
	folder := filepath.Join(home, "folder")
	broken := map[string]bool{}
	specials := 0
	for i := range files {
		dir := filepath.Join(folder, fmt.Sprint(i/500))
		path := filepath.Join(dir, fmt.Sprintf("%06d", i))
		var err error
		if i%500 == 0 {
			err = os.MkdirAll(dir, 0o700)
		}
		if n := files / bad; i%n == 1 {
			made, e := badEntry(i/n, path)
			err = errors.Join(err, e)
			rel, _ := filepath.Rel(home, made)
			broken[rel] = true
			if i/n%6 == 1 {
				specials++
			}
		} else {
			err = errors.Join(err, os.WriteFile(path, bytes.Repeat([]byte(path), 20), 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	up := func(args ...string) (stdout, stderr string, code int) {
		t.Helper()
		cmd := upTo(t, srv, home, append([]string{"--dereference"}, args...)...)
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		code = exitCode(cmd.Run())
		return out.String(), errOut.String(), code
	}
	left := fmt.Sprintf("%d entries", bad-specials)

	stdout, stderr, code := up("--report", "report.csv", "folder")
	if code != 3 || stdout != "" || srv.Count(uploadertest.Upload).Requests > 0 {
		t.Errorf("exit code %d, standard output %q, %+v", code, stdout, srv.Count(uploadertest.Upload))
	}
	if n := strings.Count(stderr, "carload: error: ") + strings.Count(stderr, "skipped"); n != bad+1 {
		t.Errorf("%d lines, want one for each of %d and one for the folder:\n%.3000s", n, bad, stderr)
	}
	for _, want := range []string{left, "--skip-errors", "--raw-names"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("standard error does not say %q", want)
		}
	}
	compare(t, broken, pathsOf(t, filepath.Join(home, "report.csv"), "3"))

	stdout, _, code = up("--json", "--skip-errors", "--dry-run", "folder")
	named := map[string]bool{}
	for line := range strings.Lines(stdout) {
		var e struct{ Type, Path string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == "refused" || e.Type == "skipped" {
			named[e.Path] = true
		}
	}
	if code != 3 || len(named) != bad {
		t.Errorf("exit code %d, %d entries named in JSON, want %d", code, len(named), bad)
	}

	stdout, stderr, code = up("--skip-errors", "--report", "report.jsonl", "folder")
	part, _, _ := strings.Cut(stdout, "\t")
	if code != 3 || part == "" || !strings.Contains(stderr, left+" were left out: the root covers only the others") {
		t.Errorf("--skip-errors: exit code %d, %q\n%.2000s", code, stdout, stderr)
	}
	first := srv.Count(uploadertest.Upload).Bytes

	for rel := range broken {
		path := filepath.Join(home, rel)
		good := filepath.Join(home, strings.TrimSuffix(rel, "\xff"))
		if err := errors.Join(os.Remove(path), os.WriteFile(good, []byte("mended "+good), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := newCommand(t, home, "cid", "-Q", "folder").Output()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code = up("--retry-from", "report.jsonl", "--report", "report.jsonl", "-Q")
	if code != 0 || stdout != string(whole) || strings.TrimSpace(stdout) == part {
		t.Errorf("the report fed back: exit code %d, %q, want root %s\n%s", code, stdout, whole, stderr)
	}
	again := srv.Count(uploadertest.Upload).Bytes - first
	t.Logf("%d files, %d bad: %d bytes sent of the others, %d after they were mended", files, bad, first, again)
	if again == 0 || again > first/3 {
		t.Errorf("%d bytes were sent at first, and %d of the rest", first, again)
	}
	if n := srv.Count(uploadertest.Upload).Requests; n != 2 {
		t.Errorf("%d uploads", n)
	}
	// Nothing failed, so there is nothing to do.
	if _, stderr, code = up("--retry-from", "report.jsonl"); code != 0 || !strings.Contains(stderr, "0 inputs") {
		t.Errorf("a report without failures: exit code %d\n%s", code, stderr)
	}
}

// pathsOf returns the paths of the entries in a report that have this code.
func pathsOf(t *testing.T, report, code string) map[string]bool {
	t.Helper()
	f, err := os.Open(report)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for _, row := range rows[1:] {
		if row[4] != code || row[6] == "" {
			continue
		}
		path := row[0]
		if row[7] != "" {
			path = decode64(t, row[7])
		}
		paths[path] = true
	}
	return paths
}

func decode64(t *testing.T, text string) string {
	t.Helper()
	p, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func compare(t *testing.T, want, got map[string]bool) {
	t.Helper()
	for path := range want {
		if !got[path] {
			t.Errorf("%q is not in the report", path)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries in the report, want %d", len(got), len(want))
	}
}

// A report may contain any path, and what is given as one may not be a report.
func TestRetryFrom(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	names := []string{"plain", "with \"quotes\", and commas", "new\nline", "carriage\r\nreturn", "not\xffutf8", " blanks ", "-dash", "#hash", "ünï"}
	for i, name := range names {
		names[i] = "./" + name
	}
	for _, report := range []string{"r.csv", "r.jsonl"} {
		cmd := newCommand(t, home, append([]string{"cid", "--report", report}, names...)...)
		if code := exitCode(cmd.Run()); code != 3 {
			t.Fatalf("exit code %d", code)
		}
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(home, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := newCommand(t, home, append([]string{"cid"}, names...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, report := range []string{"r.csv", "r.jsonl"} {
		out, err := newCommand(t, home, "cid", "--retry-from", report).Output()
		if err != nil || string(out) != string(want) {
			t.Errorf("%s fed back: %v\n%swant\n%s", report, err, out, want)
		}
	}
	for name, text := range map[string]string{"other.csv": "a,b\n1,2\n", "cut.jsonl": `{"path":"x","co`, "code.csv": "path,code\nx,many\n", "quote.csv": "path,code\n\"x,1\n"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd := newCommand(t, home, "cid", "--retry-from", name)
		cmd.Stderr = &stderr
		if code := exitCode(cmd.Run()); code != 3 || !strings.Contains(stderr.String(), name) {
			t.Errorf("%s: exit code %d\n%s", name, code, stderr.String())
		}
	}
	cmd := newCommand(t, home, "cid", "--report", "nowhere/r.csv", "./plain")
	if code := exitCode(cmd.Run()); code != 2 {
		t.Errorf("a report that can't be written: exit code %d", code)
	}
	if left, _ := filepath.Glob(filepath.Join(home, ".carload-report-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
