package service_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
)

const soakDir = "CARLOAD_TEST_SOAK_DIR"

// TestSoakChild serves until its input ends.
func TestSoakChild(t *testing.T) {
	dir := os.Getenv(soakDir)
	if dir == "" {
		t.Skip("is started by TestSoak")
	}
	st, err := store.Open(t.Context(), store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	svc, err := service.New(t.Context(), st, service.Options{Registry: reg, MaxConns: soakConns})
	if err != nil {
		t.Fatal(err)
	}
	srv := service.NewServer(svc.Handler(), service.ServerOptions{MaxConns: soakConns})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	fmt.Fprintf(os.Stderr, "listening %s\n", l.Addr())
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Error(err)
	}
	if err := errors.Join(srv.Close(), <-ended, svc.Close(), st.Close()); err != nil {
		t.Error(err)
	}
}

const (
	soakConns = 1000
	soakFiles = 64 + 20 // files that a store keeps open, plus some connections to its index
)

// Honest clients of all sizes work while all attacks are made in turn. None of
// their requests may fail, and nothing may be left behind. CARLOAD_TEST_SOAK
// sets the duration.
func TestSoak(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells how much memory a process took")
	}
	took := 10 * time.Second
	if text := os.Getenv("CARLOAD_TEST_SOAK"); text != "" {
		var err error
		if took, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	st, err := store.Open(t.Context(), store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, honest, err1 := st.CreateKey(t.Context(), store.KeyOptions{Name: "honest"})
	_, evil, err2 := st.CreateKey(t.Context(), store.KeyOptions{Name: "evil"})
	if err := errors.Join(err1, err2, st.Close()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSoakChild$", "-test.timeout", "0")
	cmd.Env = append(os.Environ(), soakDir+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening ")
	if err != nil || !ok {
		t.Fatalf("the child says %q, %v", line, err)
	}
	s := &soak{t: t, addr: addr, token: honest, evil: evil, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	s.prepare()
	before := s.gauges()

	ctx, cancel := context.WithTimeout(t.Context(), took)
	defer cancel()
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error { return s.honest(ctx, i) })
	}
	turn := took / time.Duration(len(attacks))
	for _, a := range attacks {
		s.during(a.name)
		attack, stop := context.WithTimeout(ctx, turn)
		var wave errgroup.Group
		for i := range a.clients {
			wave.Go(func() error {
				for attack.Err() == nil {
					a.run(s, attack, i) // the attacker's reply does not matter
				}
				return nil
			})
		}
		if err := wave.Wait(); err != nil {
			t.Error(err)
		}
		stop()
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	s.report(turn >= 5*time.Second)
	s.client.CloseIdleConnections()
	waitLong(t, "descriptors and goroutines to be as many as before", func() bool {
		now := s.gauges()
		return now.goroutines <= before.goroutines+10 && now.descriptors <= before.descriptors+soakFiles
	})
	after := s.gauges()
	peak := peakMemory(t, cmd.Process.Pid)
	t.Logf("memory %d MiB at most; goroutines %d before, %d after; descriptors %d before, %d after", peak>>20, before.goroutines, after.goroutines, before.descriptors, after.descriptors)
	if peak > 512<<20 && !underRace {
		t.Errorf("%d MiB of memory", peak>>20)
	}
	s.client.CloseIdleConnections()
	if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
	if st, err = store.Open(t.Context(), store.Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	r, err := st.Fsck(t.Context())
	if err := errors.Join(err, st.Close()); err != nil || len(r.Problems) > 0 {
		t.Errorf("fsck: %v, %v", r.Problems, err)
	}
}

func waitLong(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(3 * time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Errorf("waited in vain for %s", what)
			return
		case <-tick.C:
		}
	}
}

// soak is a service under attack, as clients see it.
type soak struct {
	t           *testing.T
	addr        string
	token, evil string
	client      *http.Client
	bombs       []string // roots that make the gateway work for nothing
	large       string   // root of a file of some megabytes

	mu    sync.Mutex
	phase string                                // guarded by mu
	times map[string]map[string][]time.Duration // guarded by mu; by phase and kind of request
}

type gauges struct{ goroutines, descriptors int }

func (s *soak) gauges() gauges {
	s.t.Helper()
	body, err := s.ask(s.t.Context(), "", "GET", "/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	figure := func(name string) int {
		m := regexp.MustCompile(`(?m)^` + name + ` (\d+)$`).FindSubmatch(body)
		if m == nil {
			s.t.Fatalf("no %s", name)
		}
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			s.t.Fatal(err)
		}
		return n
	}
	return gauges{figure("go_goroutines"), figure("process_open_fds")}
}

func (s *soak) during(phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = phase
}

func (s *soak) count(kind string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times = make(map[string]map[string][]time.Duration)
	}
	if s.times[s.phase] == nil {
		s.times[s.phase] = make(map[string][]time.Duration)
	}
	s.times[s.phase][kind] = append(s.times[s.phase][kind], took)
}

// report logs how long requests took under each attack. It fails if there were
// no honest requests at all; if each is set, it fails if any attack had none.
func (s *soak) report(each bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range attacks {
		var line strings.Builder
		for _, kind := range []string{"upload", "read", "check", "list", "delete"} {
			times := s.times[a.name][kind]
			if len(times) == 0 {
				continue
			}
			slices.Sort(times)
			fmt.Fprintf(&line, "; %d × %s, %s, p99 %s, at most %s", len(times), kind,
				times[len(times)/2].Round(time.Millisecond), times[len(times)*99/100].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
		}
		if line.Len() == 0 && each {
			s.t.Errorf("%s: no honest request was done", a.name)
		}
		s.t.Logf("%s%s", a.name, &line)
	}
	if len(s.times) == 0 {
		s.t.Error("no honest request was done")
	}
}

// ask sends a request that must succeed.
func (s *soak) ask(ctx context.Context, token, method, path string, body []byte, header ...string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	reply, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s %.200s", method, path, res.Status, reply)
	}
	return reply, nil
}

// timed is ask for honest clients.
func (s *soak) timed(ctx context.Context, kind, method, path string, body []byte, header ...string) ([]byte, error) {
	start := time.Now()
	// The end of the test must not cut off an honest request.
	reply, err := s.ask(context.WithoutCancel(ctx), s.token, method, path, body, header...)
	s.count(kind, time.Since(start))
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil, fmt.Errorf("during %q after %s: %w", s.phase, time.Since(start).Round(time.Millisecond), err)
	}
	return reply, nil
}

// honest uploads, queries, downloads and deletes until the context ends.
func (s *soak) honest(ctx context.Context, n int) error {
	rng := rand.NewChaCha8([32]byte{byte(n)})
	r := rand.New(rng)
	pace := time.NewTicker(200 * time.Millisecond)
	defer pace.Stop()
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
		size := []int{1, 100, 10_000, 100_000, 300_000, 1 << 20, 300, 5 << 20}[(round+n)%8]
		data := make([]byte, size+r.IntN(size))
		_, _ = rng.Read(data)
		var body []byte
		mime := "application/octet-stream"
		if round%2 == 0 {
			body = data
		} else { // ten blocks
			var blocks []block
			var links []cid.Cid
			for part := range slices.Chunk(data, len(data)/10+1) {
				blocks = append(blocks, blockOf(cid.Raw, part))
				links = append(links, blocks[len(blocks)-1].CID)
			}
			body, mime = carOf(append([]block{pbNode(fmt.Sprint(n, round), links...)}, blocks...)...), "application/car"
		}
		reply, err := s.timed(ctx, "upload", "POST", "/upload", body, "Content-Type", mime)
		if err != nil {
			return err
		}
		var up struct {
			Value struct {
				CID string
				Pin struct{ Status string }
			}
		}
		if err := json.Unmarshal(reply, &up); err != nil || up.Value.Pin.Status != "pinned" {
			return fmt.Errorf("an upload: %s, %w", reply, err)
		}
		root := up.Value.CID
		if reply, err = s.timed(ctx, "check", "GET", "/check/"+root, nil); err != nil || !bytes.Contains(reply, []byte(`"pinned"`)) {
			return fmt.Errorf("check: %s, %w", reply, err)
		}
		if mime == "application/car" {
			if reply, err = s.timed(ctx, "read", "GET", "/ipfs/"+root+"?format=car", nil); err != nil || len(reply) < len(data) {
				return fmt.Errorf("an archive of %d bytes: %d, %w", len(data), len(reply), err)
			}
		} else {
			if reply, err = s.timed(ctx, "read", "GET", "/ipfs/"+root, nil); err != nil || !bytes.Equal(reply, data) {
				return fmt.Errorf("a file of %d bytes: %d, %w", len(data), len(reply), err)
			}
			from := r.IntN(len(data))
			if reply, err = s.timed(ctx, "read", "GET", "/ipfs/"+root, nil, "Range", fmt.Sprintf("bytes=%d-", from)); err != nil || !bytes.Equal(reply, data[from:]) {
				return fmt.Errorf("a file of %d bytes from %d: %d, %w", len(data), from, len(reply), err)
			}
		}
		if round%4 == 0 {
			if _, err := s.timed(ctx, "list", "GET", "/?limit=100", nil); err != nil {
				return err
			}
		}
		if round%3 == 0 {
			if _, err := s.timed(ctx, "delete", "DELETE", "/"+root, nil); err != nil {
				return err
			}
		}
	}
}

// prepare uploads what the attacks read.
func (s *soak) prepare() {
	s.t.Helper()
	put := func(body []byte, mime string) string {
		reply, err := s.ask(s.t.Context(), s.evil, "POST", "/upload", body, "Content-Type", mime)
		if err != nil {
			s.t.Fatal(err)
		}
		var up struct{ Value struct{ CID string } }
		if err := json.Unmarshal(reply, &up); err != nil {
			s.t.Fatal(err)
		}
		return up.Value.CID
	}
	for _, sizes := range []string{"", "\x18\x00" + strings.Repeat("\x20\x00", 100)} {
		leaf := raw("")
		node := leaf
		var blocks []block
		for range 10 {
			node = pbNode("\x08\x02"+sizes, slices.Repeat([]cid.Cid{node.CID}, 100)...)
			blocks = append([]block{node}, blocks...)
		}
		s.bombs = append(s.bombs, put(carOf(append(blocks, leaf)...), "application/car"))
	}
	s.large = put(bytes.Repeat([]byte("0123456789abcdef"), 2<<20), "application/octet-stream") // 32 MiB
}

// attacks run one after the other, each with this many clients.
var attacks = []struct {
	name    string
	clients int
	run     func(s *soak, ctx context.Context, n int)
}{
	{"connections that say nothing", 4, func(s *soak, ctx context.Context, _ int) {
		s.hold(ctx, 200, func(int) string { return "" }, false)
	}},
	{"heads that don't end", 4, func(s *soak, ctx context.Context, _ int) {
		s.hold(ctx, 100, func(i int) string { return fmt.Sprintf("GET / HTTP/1.1\r\nHost: localhost\r\nX-%d: ", i) }, true)
	}},
	{"bodies after a refusal", 4, func(s *soak, ctx context.Context, _ int) {
		s.hold(ctx, 100, func(int) string {
			return "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\nx"
		}, true)
	}},
	{"slow uploads", 2, func(s *soak, ctx context.Context, _ int) {
		begun := carOf(raw(strings.Repeat("x", 1000)))
		s.hold(ctx, 40, func(int) string {
			return "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/car\r\nAuthorization: Bearer " + s.evil + "\r\nContent-Length: 90000000\r\n\r\n" + string(begun)
		}, true)
	}},
	{"many uploads at a time", 60, func(s *soak, ctx context.Context, n int) {
		data := make([]byte, 2<<20)
		binary.BigEndian.PutUint64(data, rand.Uint64()) // all from one key
		s.attack(ctx, "POST", "/upload", data, "application/octet-stream")
	}},
	{"many links", 2, func(s *soak, ctx context.Context, n int) {
		var links []cid.Cid
		for i := range 40_000 {
			links = append(links, raw(fmt.Sprint(i)).CID)
		}
		s.attack(ctx, "POST", "/upload", carOf(cborNode(fmt.Sprint(rand.Uint64()), links...)), "application/car")
	}},
	{"a long chain", 2, func(s *soak, ctx context.Context, _ int) {
		node := raw(fmt.Sprint(rand.Uint64()))
		blocks := []block{node}
		for range 20_000 {
			node = pbNode("", node.CID)
			blocks = append(blocks, node)
		}
		slices.Reverse(blocks)
		s.attack(ctx, "POST", "/upload", carOf(blocks...), "application/car")
	}},
	{"work for nothing at the gateway", 8, func(s *soak, ctx context.Context, n int) {
		method := []string{"GET", "HEAD"}[n%2]
		s.attack(ctx, method, "/ipfs/"+s.bombs[n/2%len(s.bombs)], nil, "")
	}},
	{"archives of bombs", 4, func(s *soak, ctx context.Context, n int) {
		s.attack(ctx, "GET", "/ipfs/"+s.bombs[n%len(s.bombs)]+"?format=car&dups=y", nil, "")
	}},
	{"readers that don't read", 2, func(s *soak, ctx context.Context, _ int) {
		s.hold(ctx, 50, func(int) string { return "GET /ipfs/" + s.large + " HTTP/1.1\r\nHost: localhost\r\n\r\n" }, false)
	}},
	{"long lists", 4, func(s *soak, ctx context.Context, n int) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for i := range 500 {
			p, err := w.CreateFormFile("file", fmt.Sprintf("%d-%d-%s", rand.Uint64(), i, strings.Repeat("n", 200)))
			if err != nil {
				s.t.Error(err)
				return
			}
			_, _ = p.Write([]byte{byte(i)}) // writes to memory
		}
		_ = w.Close() // writes to memory
		s.attack(ctx, "POST", "/upload", b.Bytes(), w.FormDataContentType())
		for range 5 {
			s.attack(ctx, "GET", "/?limit=1000", nil, "")
		}
	}},
	{"upload and delete", 2, func(s *soak, ctx context.Context, _ int) {
		body := raw(fmt.Sprint(rand.Uint64(), strings.Repeat("x", 100_000)))
		s.attack(ctx, "POST", "/upload", carOf(body), "application/car")
		s.attack(ctx, "DELETE", "/"+body.CID.String(), nil, "")
	}},
	{"pins with much metadata", 2, func(s *soak, ctx context.Context, n int) {
		body := fmt.Sprintf(`{"cid":%q,"meta":{"k":"%s"}}`, raw(fmt.Sprint(rand.Uint64())).CID, strings.Repeat("v", 60_000))
		s.attack(ctx, "POST", "/pins", []byte(body), "application/json")
		s.attack(ctx, "GET", "/pins?limit=1000&meta="+url.QueryEscape(`{"k":"w"}`), nil, "")
	}},
	{"nonsense", 4, func(s *soak, ctx context.Context, n int) {
		junk := make([]byte, 2000)
		_, _ = rand.NewChaCha8([32]byte{byte(n), byte(rand.Uint32())}).Read(junk)
		s.hold(ctx, 5, func(i int) string { return string(junk[i*300:]) }, false)
		s.attack(ctx, "POST", "/upload", junk, []string{"application/car", "multipart/form-data; boundary=x", "application/json"}[n%3])
		for _, path := range []string{"/%00", "/ipfs/x", "/ipfs/" + s.bombs[0] + "/..", "/piece/x", "/pins/x", "/ipfs/?uri=ipfs://x"} {
			s.attack(ctx, "GET", path, nil, "")
		}
	}},
}

// attack sends a request and ignores the result.
func (s *soak) attack(ctx context.Context, method, path string, body []byte, mime string) {
	_, _ = s.ask(ctx, s.evil, method, path, body, "Content-Type", mime)
}

// hold opens connections and sends a text on each. Then it keeps them open
// until the context ends; if trickles is set, it sends a byte from time to time.
func (s *soak) hold(ctx context.Context, conns int, head func(int) string, trickles bool) {
	var all []net.Conn
	defer func() {
		for _, c := range all {
			_ = c.Close() // the service may have closed it
		}
	}()
	var d net.Dialer
	for i := range conns {
		c, err := d.DialContext(ctx, "tcp", s.addr)
		if err != nil {
			break
		}
		all = append(all, c)
		_, _ = io.WriteString(c, head(i)) // the service may have hung up
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 20 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, c := range all {
			if trickles {
				_, _ = c.Write([]byte("x")) // the service may have hung up
			}
		}
	}
}

// peakMemory returns the most memory that a process used.
func peakMemory(t *testing.T, pid int) (peak int64) {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kilobytes int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); n == 1 {
			return kilobytes << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
