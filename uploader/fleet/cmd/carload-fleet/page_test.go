package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The examples of docs/fleet.md run from top to bottom, as those of the README do:
// what goes on until it is stopped beside a shell with the rest. What they leave
// open is filled in: ports, addresses, and where the files are.
func TestPage(t *testing.T) {
	text, err := os.ReadFile("../../../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), data: filepath.Join(t.TempDir(), "data"), lease: time.Minute}
	home := w.dir
	w.data = filepath.Join(home, "data")
	w.fill(20)
	certificate(t, home)
	if err := os.WriteFile(filepath.Join(home, "fleet.token"), []byte("not-a-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freePort(t)
	asServer := environ(home, "CARLOAD_FLEET_LISTEN="+address)
	asClient := environ(home, "CARLOAD_FLEET_NATS=nats://"+address)
	fill := strings.NewReplacer("$PWD", home, "/mnt/data", w.data, "\\\n", "")
	start := func(env []string, line string) *process {
		words := strings.Fields(line)
		for i, word := range words {
			if _, err := os.Stat(filepath.Join(home, word)); err == nil && regexp.MustCompile(`\.(crt|key|token)$`).MatchString(word) {
				words[i] = filepath.Join(home, word)
			}
		}
		return run(t, env, nil, words[0], words[1:]...)
	}
	ready := func(p *process, line string) {
		wait(t, line, time.Minute, func() bool {
			select {
			case <-p.done:
				t.Fatalf("%s: %s", line, p.errs.all())
			default:
			}
			return len(p.out.all()) > 0
		})
	}

	var queue *process
	ran, three := 0, false
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(fill.Replace(m[1])) {
			line, _, _ = strings.Cut(line, "#")
			line = strings.TrimSpace(line)
			ran++
			switch {
			case strings.HasPrefix(line, "go install "):
				ran--
			case strings.Contains(line, "--routes"):
				three = true
				line = strings.NewReplacer("10.0.0.1:4222", freePort(t), "10.0.0.1:6222", freePort(t), "10.0.0.2:6222", freePort(t), "10.0.0.3:6222", freePort(t)).Replace(line)
				routes := strings.Split(regexp.MustCompile(`--routes (\S+)`).FindStringSubmatch(line)[1], ",")
				var servers []*process
				for i, route := range routes {
					mine := line
					if i > 0 {
						mine = regexp.MustCompile(`--name a --listen \S+ --cluster-listen \S+`).ReplaceAllString(line, fmt.Sprintf("--name %c --listen %s --cluster-listen %s", 'a'+i, freePort(t), route))
					}
					servers = append(servers, start(environ(filepath.Join(home, fmt.Sprint("server", i))), mine))
				}
				for _, s := range servers {
					ready(s, line)
				}
			case line == "carload fleet up":
				queue = start(asServer, line)
				ready(queue, line)
			case strings.HasPrefix(line, "carload fleet work"):
				start(asClient, line)
			default:
				if strings.HasPrefix(line, "carload fleet report") {
					line = "carload fleet status --wait && " + line
				}
				if strings.HasPrefix(line, "carload fleet reconcile") { // the queue is lost, and two hosts know the same
					queue.kill()
					lost := filepath.Join(home, ".local/share/carload/fleet")
					if err := os.Rename(lost, lost+".lost"); err != nil {
						t.Fatal(err)
					}
					if err := os.Link(filepath.Join(home, "host7.jsonl"), filepath.Join(home, "host8.jsonl")); err != nil {
						t.Fatal(err)
					}
					queue = start(asServer, "carload fleet up")
					ready(queue, "carload fleet up")
					line += " && carload fleet status --wait && carload fleet report -o again.csv"
				}
				sh := exec.Command("sh", "-eux", "-c", line)
				sh.Dir, sh.Env = home, asClient
				if out, err := sh.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
		}
	}
	if ran < 8 || !three {
		t.Errorf("the page has %d examples, with three servers: %t", ran, three)
	}
	for _, name := range []string{"report.csv", "again.csv"} {
		report, err := os.ReadFile(filepath.Join(home, name))
		if n := strings.Count(string(report), ",done,"); err != nil || n != 20 {
			t.Errorf("%s: %d of 20 files are done: %v\n%s", name, n, err, report)
		}
	}
}

// certificate writes the certificate and key of a server on this machine, and of
// the authority that signed it.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fleet"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signed, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"a.crt": {Type: "CERTIFICATE", Bytes: signed}, "ca.crt": {Type: "CERTIFICATE", Bytes: signed}, "a.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
