//go:build unix

package cli_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/carload/carload/uploader/targettest"
)

const repository = "../../../.."

// readme returns the README and the pages that continue it, in the order in
// which their examples build on one another. The fleet is not among them: it is
// a separate program.
func readme(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, page := range []string{"README.md", "docs/uploading.md", "docs/targets.md", "docs/service.md", "docs/archives.md", "docs/json.md", "docs/library.md", "docs/promises.md"} {
		text, err := os.ReadFile(filepath.Join(repository, page))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}

// fenced returns the code blocks of a language.
func fenced(text, language string) (blocks []string) {
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// startService runs a carload serve command line until the test ends, and
// returns the URL that it prints when it is ready.
func startService(t *testing.T, home string, args ...string) string {
	t.Helper()
	return startCommand(t, newCommand(t, home, args...))
}

// startLimited starts a service that may have this many files open.
func startLimited(t *testing.T, home string, descriptors int, args ...string) string {
	t.Helper()
	cmd := newCommand(t, home, args...)
	cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec carload "$@"`, descriptors)}, cmd.Args...)
	var err error
	if cmd.Path, err = exec.LookPath("sh"); err != nil {
		t.Fatal(err)
	}
	return startCommand(t, cmd)
}

func startCommand(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	args := cmd.Args[1:]
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("carload %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
	})
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("carload %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(url)
}

// Every example in the README and its pages runs: those in shell as one session
// from top to bottom, those in Go as programs. The test fills in what they
// leave open:
//
//	https://api.example.org    a service of this test, and … its token
//	movie.mkv, photos, ROOT    files of this test, and the root of the first
//	/srv/carload, :8080        a directory of this test, and any port
//	carload serve …            runs beside the shell
//	go run ./cmd/carload       carload as it is tested
//	go install …@latest        go list: checks that the package exists
//	go test ./...              nothing: it runs this test
//	kubo://…, --to home        a node of this test, if CARLOAD_KUBO names the program
//	s3://films, --to cold      a bucket of this test, if CARLOAD_VERSITYGW does
func TestReadme(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	movie, err := os.ReadFile(randomFile(t, home, 3_000_000))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"movie.mkv": movie, "photos/a.jpg": []byte("a"), "README.md": []byte("read me")} {
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(filepath.Join(home, "movie.mkv"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := newCommand(t, home, "cid", "-Q", "movie.mkv").Output()
	if err != nil {
		t.Fatal(err)
	}
	rootCID := strings.TrimSpace(string(root))
	url := startService(t, home, "serve", "-q", "--store", "service", "--listen", "127.0.0.1:0")
	token, err := os.ReadFile(filepath.Join(home, "service", "local-token"))
	if err != nil {
		t.Fatal(err)
	}
	module, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	node := "" // empty without the program: then these lines are left out
	if os.Getenv("CARLOAD_KUBO") != "" {
		node = strings.TrimPrefix(targettest.StartKubo(t).URL, "http://")
	}
	storage := &targettest.S3{Bucket: "none"}
	if os.Getenv("CARLOAD_VERSITYGW") != "" {
		storage = targettest.StartS3(t)
	}
	if storage.URL != "" {
		client := s3.New(s3.Options{BaseEndpoint: &storage.URL, UsePathStyle: true, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(storage.Access, storage.Secret, "")})
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &storage.Bucket, Key: aws.String("raw/movie.mkv"), Body: bytes.NewReader(movie)}); err != nil {
			t.Fatal(err)
		}
	}
	fill := strings.NewReplacer(
		"https://s3.example.org", storage.URL, "s3://films", "s3://"+storage.Bucket, "=shelf", "="+storage.Access, "=not-a-secret", "="+storage.Secret,
		"127.0.0.1:5001", node,
		"https://api.example.org", url, "…", strings.TrimSpace(string(token)),
		"ROOT", rootCID,
		"/srv/carload", "srv", "127.0.0.1:8080", "127.0.0.1:0",
		"go run ./cmd/carload", "carload",
		"go install", "cd '"+module+"'; go list", "@latest", "; cd - >/dev/null",
		"go test ./...", ":",
	)

	var script, services []string
	for _, block := range fenced(readme(t), "sh") {
		for line := range strings.Lines(fill.Replace(block)) {
			switch {
			case strings.HasPrefix(line, "carload serve"):
				services = append(services, line)
			case node == "" && (strings.Contains(line, "kubo://") || strings.Contains(line, "--to home") || strings.Contains(line, "--from home") || strings.Contains(line, "test home")):
			case storage.URL == "" && (strings.Contains(line, "s3://") || strings.Contains(line, "--to cold")):
			default:
				script = append(script, line)
			}
		}
	}
	if len(script) < 10 || len(services) == 0 {
		t.Fatalf("found %d lines and %d services in the README", len(script), len(services))
	}
	sh := exec.Command("sh", "-eux", "-c", strings.Join(script, ""))
	sh.Dir, sh.Env = home, append(goEnv(t), "HOME="+home)
	if out, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, line := range services {
		startService(t, home, strings.Fields(line)[1:]...)
	}

	// Check the results that the README promises.
	resp, err := http.Get(url + "/ipfs/" + rootCID)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, movie) {
		t.Errorf("the gateway gives %d bytes that are not the file's: %v", len(got), err)
	}
	if got, err := os.ReadFile(filepath.Join(home, "restored", "movie.mkv")); err != nil || !bytes.Equal(got, movie) {
		t.Errorf("unpack gives %d bytes that are not the file's: %v", len(got), err)
	}

	after, err := os.Stat(filepath.Join(home, "movie.mkv"))
	if err != nil || after.ModTime() != before.ModTime() || after.Mode() != before.Mode() || !os.SameFile(before, after) {
		t.Errorf("the source was touched: %v, then %v, %v", before, after, err)
	}

	examples := fenced(readme(t), "go")
	if len(examples) == 0 {
		t.Fatal("the README has no example in Go")
	}
	for i, source := range examples {
		// Build it in its own module, as a stranger would.
		program := filepath.Join(home, fmt.Sprintf("example%d", i))
		sums, err := os.ReadFile(filepath.Join(repository, "go.sum"))
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{
			"main.go": source,
			"go.sum":  string(sums),
			"go.mod":  "module example.org/embed\n\ngo 1.26\n\nrequire github.com/carload/carload v0.0.0\n\nreplace github.com/carload/carload => " + strconv.Quote(module) + "\n",
		} {
			path := filepath.Join(program+".d", name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		build := exec.Command("go", "build", "-mod=mod", "-o", program, ".")
		build.Dir, build.Env = program+".d", append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		run := exec.Command(program, url, "movie.mkv", rootCID)
		run.Dir, run.Env = home, []string{"TOKEN=" + strings.TrimSpace(string(token))}
		if out, err := run.CombinedOutput(); err != nil || string(out) != rootCID+"\n" {
			t.Errorf("the example prints %q: %v", out, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(home, "restored-movie.mkv")); err != nil || !bytes.Equal(got, movie) {
		t.Errorf("the example that gets it back writes %d bytes that are not the file's: %v", len(got), err)
	}
}

// goEnv lets go find its caches with another home directory.
func goEnv(t *testing.T) []string {
	t.Helper()
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOFLAGS", "GOPATH"} {
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.TrimSpace(string(value))
		if name == "GOFLAGS" { // another user may own the repository
			text = strings.TrimSpace(text + " -buildvcs=false")
		}
		env = append(env, name+"="+text)
	}
	return env
}

// The tests that the README names exist.
func TestReadmeNamesTests(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		sources.Write(source)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)").FindAllStringSubmatch(readme(t), -1)
	if len(names) == 0 {
		t.Error("the README names no test")
	}
	for _, name := range names {
		if !strings.Contains(sources.String(), "\nfunc "+name[1]+"(") {
			t.Errorf("no test is called %s", name[1])
		}
	}
}

// The documentation lists every type of JSON line, and no other.
func TestReadmeNamesEvents(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	inCode := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`header\("(\w+)"\)`).FindAllStringSubmatch(string(source), -1) {
			inCode[m[1]] = true
		}
	}
	_, table, found := strings.Cut(readme(t), "| type | of |")
	table, _, ends := strings.Cut(table, "\n\n")
	if !found || !ends || len(inCode) < 20 {
		t.Fatalf("the README has a table of types: %v; types in the code: %d", found, len(inCode))
	}
	for row := range strings.Lines(table) {
		cells := strings.Split(row, "|")
		if len(cells) < 2 {
			continue
		}
		for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[1], -1) {
			if !inCode[m[1]] {
				t.Errorf("there is no %s", m[1])
			}
			delete(inCode, m[1])
		}
	}
	for kind := range inCode {
		t.Errorf("the README has no %s", kind)
	}
}
