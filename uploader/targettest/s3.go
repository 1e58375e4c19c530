package targettest

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// S3 is a real S3 server (versitygw) over a directory.
type S3 struct {
	URL            string
	Access, Secret string // credentials of the root user
	Bucket         string // an existing bucket
	Dir            string // where objects are stored as files

	program, data string
	cmd           *exec.Cmd
}

// s3Program is the environment variable with the path of versitygw.
const s3Program = "CARLOAD_VERSITYGW"

// StartS3 starts a server with one bucket, or skips the test if the environment
// variable CARLOAD_VERSITYGW is not set. The server ends with the test.
func StartS3(tb testing.TB) *S3 {
	tb.Helper()
	s := &S3{program: program(tb, s3Program), Access: "carload", Secret: "s3cret-of-the-test", Bucket: "shards", data: tb.TempDir()}
	s.URL = "http://" + freeAddress(tb)
	s.Dir = filepath.Join(s.data, s.Bucket)
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	s.Start(tb)
	tb.Cleanup(func() { s.Kill(tb) })
	return s
}

// freeAddress returns a free address, for programs that need the same address
// again when they are restarted.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Start starts the server, possibly after Kill, and waits until it responds.
func (s *S3) Start(tb testing.TB) {
	tb.Helper()
	at := strings.TrimPrefix(s.URL, "http://")
	cmd := exec.Command(s.program, "--port", at, "--quiet", "posix", s.data) //nolint:noctx // it outlives the test's context, and is killed in the cleanup
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.Access, "ROOT_SECRET_KEY="+s.Secret)
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	s.cmd = cmd
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		if err != nil {
			tb.Fatal(err)
		}
		if resp, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			tb.Fatal("versitygw does not answer")
		}
	}
}

// Kill ends the server without warning, as a power loss would.
func (s *S3) Kill(tb testing.TB) {
	tb.Helper()
	if s.cmd == nil {
		return
	}
	if err := s.cmd.Process.Kill(); err != nil {
		tb.Log(err)
	}
	_ = s.cmd.Wait() // it was killed
	s.cmd = nil
}
