//go:build unix

package cli_test

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/carload/carload/uploader/targettest"
	"github.com/carload/carload/uploader/uploadertest"
)

// TestTargetBucketAsSource uploads from a bucket of a real server: an object, a
// prefix as a tree, an archive. The roots are those of the same files on disk,
// and the error for an object that changes meanwhile names it.
func TestTargetBucketAsSource(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	s := targettest.StartS3(t)
	front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, s.URL), Kind: func(r *http.Request) uploadertest.Op {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/movie") {
			return uploadertest.Block
		}
		return uploadertest.Other
	}})
	client := s3.New(s3.Options{BaseEndpoint: &s.URL, UsePathStyle: true, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(s.Access, s.Secret, "")})
	put := func(key string, data []byte) {
		t.Helper()
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &s.Bucket, Key: aws.String(key), Body: bytes.NewReader(data)}); err != nil {
			t.Fatal(err)
		}
	}
	movie, err := os.ReadFile(randomFile(t, home, 9_000_000))
	if err != nil {
		t.Fatal(err)
	}
	put("movie", movie)
	for name, content := range map[string]string{"a.jpg": "a", "2024/b ü.jpg": "bee", "2024/c.txt": "sea", ".thumbs/d": "hidden", "2024/.e": "hidden"} {
		path := filepath.Join(home, "photos", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		put("my/photos/"+name, []byte(content))
	}
	command := func(args ...string) *exec.Cmd {
		cmd := newCommand(t, home, args...)
		cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL="+front.URL, "AWS_ACCESS_KEY_ID="+s.Access, "AWS_SECRET_ACCESS_KEY="+s.Secret)
		return cmd
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := command(args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("carload %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return strings.TrimSpace(string(out))
	}
	fails := func(code int, says string, args ...string) {
		t.Helper()
		out, err := command(args...).CombinedOutput()
		if exitCode(err) != code || !strings.Contains(string(out), says) {
			t.Errorf("carload %s: %v, want %d\n%s", strings.Join(args, " "), err, code, out)
		}
	}
	for _, args := range [][2][]string{
		{{"movie"}, {"s3://shards/movie"}},
		{{"movie", "--profile", "unixfs-v0-2015"}, {"s3://shards/movie", "--profile", "unixfs-v0-2015"}},
		{{"photos"}, {"s3://shards/my/photos"}},
		{{"photos"}, {"s3://shards/my/photos/"}},
		{{"photos", "--hidden"}, {"s3://shards/my/photos", "--hidden"}},
		{{"photos", "--exclude", "*.txt"}, {"s3://shards/my/photos", "--exclude", "*.txt"}},
		{{"photos/2024"}, {"s3://shards/my/photos/2024"}},
	} {
		want, got := run(append([]string{"cid", "-Q"}, args[0]...)...), run(append([]string{"cid", "-Q"}, args[1]...)...)
		if got != want {
			t.Errorf("%q gives %s, %q gives %s", args[1], got, args[0], want)
		}
	}
	root := run("up", "-Q", "s3://shards/movie", "--to", "store:here", "--max-shard-bytes", "2000000")
	if want := run("cid", "-Q", "movie"); root != want {
		t.Errorf("%s went up, want %s", root, want)
	}
	run("verify", root, "--full", "--to", "store:here")
	before := front.Count(uploadertest.Block).Requests
	run("up", "-Q", "s3://shards/movie", "--to", "store:here", "--max-shard-bytes", "2000000")
	if n := front.Count(uploadertest.Block).Requests - before; n > 0 {
		t.Errorf("what is there, and unchanged, was read again: %d requests", n)
	}
	// The DAG in an archive, from a bucket into the same one.
	run("pack", "photos", "-o", "packed")
	packed, err := filepath.Glob(filepath.Join(home, "packed", "*.car"))
	if err != nil || len(packed) != 1 {
		t.Fatal(packed, err)
	}
	archive, err := os.ReadFile(packed[0])
	if err != nil {
		t.Fatal(err)
	}
	put("photos.car", archive)
	root = run("up", "-Q", "s3://shards/photos.car", "--to", "s3://shards/up")
	if want := run("cid", "-Q", "photos"); root != want {
		t.Errorf("the archive is of %s, want %s", root, want)
	}
	run("verify", root, "--full", "--to", "s3://shards/up")
	// Straight from the bucket, to a file and to another target.
	run("get", root, "--from", "s3://shards/up", "-o", "back")
	if out, err := exec.CommandContext(t.Context(), "diff", "-r", filepath.Join(home, "photos"), filepath.Join(home, "back"), "--exclude=.*").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	run("copy", root, "--from", "s3://shards/up", "--to", "store:copied", "--verify", "full")

	fails(3, "no such object, and none below it", "up", "s3://shards/nothing", "--to", "store:here")
	fails(3, "there is no such bucket", "cid", "s3://nothing/movie")
	if out := run("target", "test", "s3://shards/tried"); !strings.Contains(out, "authorization\tworks") {
		t.Errorf("a wrong secret: %s", out)
	}
	fails(2, "in a bucket", "up", "--wrap", "s3://shards/movie", "--to", "store:here")
	// The object is replaced before it is sent.
	front.Script(uploadertest.Block, append(uploadertest.Repeat(6, uploadertest.Pass), func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		put("movie", append([]byte("changed"), movie[7:]...))
		next.ServeHTTP(w, r)
	})...)
	fails(3, `"s3://shards/movie" changed`, "up", "s3://shards/movie", "--to", "store:there", "--ledger", "none")
}

// TestTargetImport checks a storage that imports CARs: a DAG is one object,
// whatever its size, and a DAG that can't be one object is refused before
// anything is sent.
func TestTargetImport(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	s := targettest.StartS3(t)
	randomFile(t, home, 101_000_000)
	run := func(args ...string) (string, int) {
		cmd := newCommand(t, home, args...)
		cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+s.Access, "AWS_SECRET_ACCESS_KEY="+s.Secret)
		out, err := cmd.CombinedOutput()
		return string(out), exitCode(err)
	}
	if out, code := run("target", "add", "base", "s3://"+s.Bucket, "--s3-import", "--s3-endpoint", s.URL); code != 0 {
		t.Fatal(out)
	}
	out, code := run("up", "movie", "--to", "base", "--max-shard-bytes", "100MB")
	if code != 8 || !strings.Contains(out, "a DAG has to fit into one archive") {
		t.Errorf("in two shards: %d, %s", code, out)
	}
	if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
		t.Errorf("there is %v, %v", left, err)
	}
	// This storage does not import anything, and carload notices.
	out, code = run("up", "movie", "--to", "base", "--json", "--retries", "0")
	if code == 0 || !strings.Contains(out, `"shards":1,`) || !strings.Contains(out, "it does not import CARs") {
		t.Errorf("in one: %d, %s", code, out)
	}
}
