//go:build unix

package cli_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Files that the command reads whole may be pipes and devices: carload neither
// waits nor reads forever.
func TestEndlessFiles(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	pipe := filepath.Join(home, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{pipe, "/dev/zero"} {
		for _, args := range [][]string{
			{"list", "--endpoint", "http://127.0.0.1:1", "--token-file", file},
			{"list", "--endpoint", "https://127.0.0.1:1", "--ca-cert", file},
			{"serve", "--listen", "127.0.0.1:0", "--tls-cert", file, "--tls-key", file},
			{"list", "--config", file},
			{"cid", "--files-from", "/dev/zero"},
			{"cid", "--exclude-from", file, home},
			{"cid", file},
			{"piece", file},
			{"cid", "--files-from0", "/dev/zero"},
			{"cid", "--retry-from", "/dev/zero"},
			{"ledger", "report", "/dev/zero"},
			{"ledger", "import", "/dev/zero"},
			{"cid", home, "--log-file", pipe},
			{"up", home, "--to", "dir:" + filepath.Join(home, "out"), "--ledger", file},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			cmd := newCommand(t, t.TempDir(), args...)
			limited := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
			limited.Env, limited.Dir = cmd.Env, cmd.Dir
			out, err := limited.CombinedOutput()
			if ctx.Err() != nil || err == nil {
				t.Errorf("carload %s: %v\n%.300s", strings.Join(args, " "), err, out)
			}
			cancel()
		}
	}
}

// A token may come through a pipe.
func TestTokenFromAPipe(t *testing.T) {
	t.Parallel()
	cmd := newCommand(t, t.TempDir(), "list", "--endpoint", "http://127.0.0.1:1", "--token-file", "/dev/stdin")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.WriteString("two words\n")
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdin = r
	out, err := cmd.CombinedOutput()
	if err == nil || bytes.Contains(out, []byte("contains no token")) || !bytes.Contains(out, []byte("/dev/stdin")) {
		t.Errorf("%v, %s", err, out)
	}
}

// The service refuses TLS before 1.2, and the broken parts of 1.2.
func TestServeTLS(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(home, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	url := startService(t, home, "serve", "-q", "--store", filepath.Join(home, "store"), "--listen", "127.0.0.1:0",
		"--tls-cert", write("cert.pem", "CERTIFICATE", chain), "--tls-key", write("key.pem", "PRIVATE KEY", private))
	addr, ok := strings.CutPrefix(url, "https://")
	if !ok {
		t.Fatal(url)
	}
	for name, tt := range map[string]struct {
		client *tls.Config
		ok     bool
	}{
		"1.1":                  {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		"1.2":                  {&tls.Config{MaxVersion: tls.VersionTLS12}, true},
		"1.3":                  {&tls.Config{MinVersion: tls.VersionTLS13}, true},
		"1.2 with RC4":         {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}}, false},
		"1.2 with 3DES":        {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA}}, false},
		"1.2 without secrecy":  {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, false},
		"1.2 with AES and GCM": {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, true},
	} {
		tt.client.InsecureSkipVerify = true //nolint:gosec // what is tested is who the server talks to
		conn, err := (&tls.Dialer{Config: tt.client}).DialContext(t.Context(), "tcp", addr)
		if (err == nil) != tt.ok {
			t.Errorf("TLS %s: %v", name, err)
		}
		if err == nil {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
