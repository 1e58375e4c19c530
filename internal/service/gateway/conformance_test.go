package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	blocks "github.com/ipfs/go-block-format"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/service/gateway"
)

// fixtures is a store with everything that the conformance suite provides.
func fixtures(t testing.TB) *memory {
	t.Helper()
	m := newMemory()
	err := filepath.WalkDir("testdata", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".car") {
			addCAR(t, m, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func addCAR(t testing.TB, m *memory, path string) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := car.NewReader(bytes.NewReader(p), car.ReaderOptions{})
	for err == nil {
		var sec car.Section
		if sec, err = r.Next(); err == nil {
			var b blocks.Block
			if b, err = blocks.NewBlockWithCid(bytes.Clone(sec.Data), sec.Cid); err == nil {
				err = m.bs.Put(t.Context(), b)
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Fatalf("%s: %v", path, err)
	}
}

const (
	hello     = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"
	helloV0   = "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN"
	hello0to1 = "bafybeiffndsajwhk3lwjewwdxqntmjm4b5wxaaanokonsggenkbw6slwk4"
	tooLong   = "bafkrgqhhyivzstcz3hhswshfjgy6ertgmnqeleynhwt4dlfsthi4hn7zgh4uvlsb5xncykzapi3ocd4lzogukir6ksdy6wzrnz6ohnv4aglcs"
	listed    = "bafybeiht6dtwk3les7vqm6ibpvz6qpohidvlshsfyr7l5mpysdw2vmbbhe"
	unicode   = "bafybeig6ka5mlwkl4subqhaiatalkcleo4jgnr3hqwvpmsqfca27cijp3i"
	percent   = "bafybeig675grnxcmshiuzdaz2xalm6ef4thxxds6o6ypakpghm5kghpc34"
	cached    = "bafybeib3ffl2teiqdncv3mkz4r23b5ctrwkzrrhctdbne6iboayxuxk5ui"
	cached2   = "bafybeih2w7hjocxjg6g2ku25hvmd53zj7og4txpby3vsusfefw5rrg5sii"
	cached3   = "bafybeiawdvhmjcz65x5egzx4iukxc72hg4woks6v6fvgyupiyt3oczk5ja"
	cached4   = "bafybeifq2rzpqnqrsdupncmkmhs3ckxxjhuvdcbvydkgvch3ms24k5lo7q"
	symlinks  = "QmWvY6FaqFMS89YAQ9NAPjVP4WZKA1qbHbicc9HeSKQTgt"
	lacking   = "QmYhmPjhFjYFyaoiuNzYv8WGavpSRDwdHWe5B4M5du5Rtk"
	files     = "bafybeihchr7vmgjaasntayyatmp5sv6xza57iy2h4xj7g46bpjij6yhrmy"
	inlineCID = "bafkqabtimvwgy3yk" // contains "hello"
)

// The cases and the expected replies are those of the conformance suite.
func TestConformance(t *testing.T) {
	t.Parallel()
	s := server(t, fixtures(t), gateway.Options{Hosts: []string{"example.com"}})
	const immutable = "public, max-age=29030400, immutable"
	for _, row := range []struct {
		name, host, path string
		request          []string // headers
		status           int
		header           []string // pairs; the value is a regular expression
		body             []string
		without          string // what the body must not contain
	}{
		{name: "to a subdomain", host: "example.com", path: "/ipfs/" + hello + "/", status: 301, header: []string{"Location", `^http://` + hello + `\.ipfs\.example\.com/$`}},
		{name: "with a port", host: "example.com:8080", path: "/ipfs/" + hello, status: 301, header: []string{"Location", `^http://` + hello + `\.ipfs\.example\.com:8080/$`}},
		{name: "a directory", host: "example.com", path: "/ipfs/" + listed + "/", status: 301, header: []string{"Location", `^http://` + listed + `\.ipfs\.example\.com/$`}},
		{name: "v0 becomes v1", host: "example.com", path: "/ipfs/" + helloV0 + "/", status: 301, header: []string{"Location", `^http://` + hello0to1 + `\.ipfs\.example\.com/$`}},
		{
			name: "percent-encoding is kept", host: "example.com", path: "/ipfs/" + percent + "/Portugal%252C+Espa%C3%B1a=Peninsula%20Ib%C3%A9rica.txt",
			status: 301, header: []string{"Location", `/Portugal%252C\+Espa%C3%B1a=Peninsula%20Ib%C3%A9rica\.txt$`},
		},
		{name: "by its name", host: hello + ".ipfs.example.com", path: "/", status: 200, body: []string{"hello"}},
		{name: "no /ipfs/ under a name", host: hello + ".ipfs.example.com", path: "/ipfs/" + hello, status: 404},
		{name: "but in a directory", host: listed + ".ipfs.example.com", path: "/ipfs/file.txt", status: 200, body: []string{"I am a txt file"}},
		{name: "links of a listing", host: listed + ".ipfs.example.com", path: "/", status: 200, body: []string{`<a href="/hello">hello</a>`, `<a href="/ipfs">ipfs</a>`}},
		{
			name: "up from a listing", host: listed + ".ipfs.example.com", path: "/ipfs/ipns/", status: 200,
			body: []string{`<a href="/ipfs/ipns/..">..</a>`, `<a href="/ipfs/ipns/bar">bar</a>`, "Index of", `/ipfs/<a href="//example.com/ipfs/` + listed + `">`},
		},
		{name: "deep", host: listed + ".ipfs.example.com", path: "/ipfs/ipns/bar", status: 200, body: []string{"text-file-content"}},
		{name: "no CID", host: "example.com", path: "/ipfs/QmInvalidCID", status: 400, body: []string{`invalid path "/ipfs/QmInvalidCID"`}},
		{name: "behind TLS", host: "example.com", path: "/ipfs/" + hello + "/", request: []string{"X-Forwarded-Proto", "https"}, status: 301, header: []string{"Location", `^https://` + hello + `\.ipfs\.example\.com/$`}},
		{
			name: "a protocol handler", host: "example.com", path: "/ipfs/?uri=" + url.QueryEscape("ipfs://"+hello+"/wiki/Diego_Maradona.html"),
			status: 301, header: []string{"Location", `^/ipfs/` + hello + `/wiki/Diego_Maradona\.html$`},
		},
		{name: "too long", host: "example.com", path: "/ipfs/" + tooLong, status: 400, body: []string{"CID incompatible with DNS label length limit of 63"}},
		{name: "too long a name", host: tooLong + ".ipfs.example.com", path: "/", status: 400, body: []string{"CID incompatible with DNS label length limit of 63"}},
		{name: "another name", host: "fake.example.net", path: "/ipfs/" + hello, status: 200, body: []string{"hello"}},
		{name: "the proxy's name", host: "fake.example.net", path: "/ipfs/" + hello, request: []string{"X-Forwarded-Host", "example.com"}, status: 301, header: []string{"Location", `^http://` + hello + `\.ipfs\.example\.com/$`}},
		{
			name: "the proxy's name and TLS", host: "fake.example.net", path: "/ipfs/" + hello, request: []string{"X-Forwarded-Host", "example.com", "X-Forwarded-Proto", "https"},
			status: 301, header: []string{"Location", `^https://` + hello + `\.ipfs\.example\.com/$`},
		},
		{name: "a name that is not ours", host: "127.0.0.1", path: "/ipfs/" + hello, request: []string{"X-Forwarded-Host", "evil.example.net"}, status: 200, body: []string{"hello"}},
		{name: "the API under the name", host: "example.com", path: "/version", status: 404, body: []string{"page not found"}},
		{name: "localhost", host: hello + ".ipfs.localhost:1234", path: "/", status: 200, body: []string{"hello"}},
		{
			name: "redirects under a name", host: cidOfRedirects + ".ipfs.example.com", path: "/redirect-one", status: 301, header: []string{"Location", "^/one.html$"},
		},
		{name: "a rewrite", host: cidOfRedirects + ".ipfs.example.com", path: "/200-index", status: 200, body: []string{"my index"}},
		{name: "a 404 of one's own", host: cidOfRedirects + ".ipfs.example.com", path: "/not-found/has-no-redirects-entry", status: 404, body: []string{"my 404"}},
		{name: "a 410 of one's own", host: cidOfRedirects + ".ipfs.example.com", path: "/gone/has-no-redirects-entry", status: 410, body: []string{"my 410"}},

		{
			name: "CORS", path: "/ipfs/" + inlineCID, status: 200, body: []string{"hello"},
			header: []string{"Access-Control-Allow-Origin", `^\*$`, "X-Ipfs-Path", "^/ipfs/" + inlineCID + "$", "Ipfs-Uri", "^ipfs://" + inlineCID + "$"},
		},
		{
			name: "a listing", path: "/ipfs/" + cached + "/root2/root3/", status: 200, header: []string{
				"X-Ipfs-Path", "^/ipfs/" + cached + "/root2/root3/$", "X-Ipfs-Roots", "^" + cached + "," + cached2 + "," + cached3 + "$",
				"Etag", "DirIndex-.*_CID-" + cached3, "Cache-Control", "^public, max-age=604800, stale-while-revalidate=2678400$",
			},
		},
		{
			name: "an index", path: "/ipfs/" + cached + "/root2/root3/root4/", status: 200, body: []string{"hello"}, header: []string{
				"X-Ipfs-Path", "^/ipfs/" + cached + "/root2/root3/root4/$", "X-Ipfs-Roots", "^" + strings.Join([]string{cached, cached2, cached3, cached4}, ",") + "$",
				"Etag", `^"` + cached4 + `"$`, "Cache-Control", immutable, "Content-Type", "^text/html",
			},
		},
		{
			name: "a file", path: "/ipfs/" + cached + "/root2/root3/root4/index.html", status: 200, body: []string{"hello"}, header: []string{
				"X-Ipfs-Path", "index.html$", "X-Ipfs-Roots", "^" + strings.Join([]string{cached, cached2, cached3, cached4, hello}, ",") + "$",
				"Etag", `^"` + hello + `"$`, "Cache-Control", immutable,
			},
		},
		{name: "a block", path: "/ipfs/" + cached + "/root2?format=raw", status: 200, header: []string{"X-Ipfs-Path", "/root2$", "Cache-Control", immutable, "Etag", `\.raw"$`}},
		{name: "DAG-JSON", path: "/ipfs/" + cached + "/root2/root3/root4/?format=dag-json", status: 406},
		{name: "held", path: "/ipfs/" + cached + "/root2/root3/root4/", request: []string{"Cache-Control", "only-if-cached"}, status: 200},
		{name: "not held", path: "/ipfs/QmYzfKSE55XCjD1MW128RfciAf2DViABhEiXfgVFMabSjN", request: []string{"Cache-Control", "only-if-cached"}, status: 412},
		{name: "a copy", path: "/ipfs/" + cached + "/root2/root3/root4/index.html", request: []string{"If-None-Match", `"fakeEtag1", W/"` + hello + `"`}, status: 304},
		{name: "any copy", path: "/ipfs/" + cached + "/root2/root3/root4/index.html", request: []string{"If-None-Match", "*"}, status: 304},
		{name: "a copy of an index", path: "/ipfs/" + cached + "/root2/root3/root4/", request: []string{"If-None-Match", `"` + cached4 + `"`}, status: 304},
		{name: "another copy", path: "/ipfs/" + cached + "/root2/root3/root4/index.html", request: []string{"If-Match", `"fakeEtag1"`}, status: 412},
		{name: "a copy's rest", path: "/ipfs/" + files + "/ascii.txt", request: []string{"Range", "bytes=6-9", "If-Range", `"bafkreifkam6ns4aoolg3wedr4uzrs3kvq66p4pecirz6y2vlrngla62mxm"`}, status: 206},
		{name: "another copy's rest", path: "/ipfs/" + files + "/ascii.txt", request: []string{"Range", "bytes=6-9", "If-Range", `"x"`}, status: 200},
		{name: "symlinks listed", path: "/ipfs/" + symlinks + "/", status: 200, body: []string{">foo<", ">bar<"}},
		{name: "a symlink", path: "/ipfs/" + symlinks + "/bar", status: 200, body: []string{"foo"}, header: []string{"Content-Type", "inode/symlink"}},
		{name: "to the slash", path: "/ipfs/" + unicode + "/%C4%85/%C4%99", status: 301, header: []string{"Location", "/%C4%85/%C4%99/$"}},
		{
			name: "a listing in another alphabet", path: "/ipfs/" + unicode + "/%C4%85/%C4%99/", status: 200, header: []string{"Etag", "DirIndex-"},
			body: []string{`<a href="/ipfs/` + unicode + `/%C4%85/%C4%99/file-%C5%BA%C5%82.txt">file-źł.txt</a>`},
		},
		{name: "beside what is missing", path: "/ipfs/" + lacking, request: []string{"Range", "bytes=2200-"}, status: 206, without: "error"},
		{name: "what is missing", path: "/ipfs/" + lacking, status: 404},
		{name: "a page that is not there", path: "/ipfs/" + listed + "/nothing", status: 404},
	} {
		if row.host == "" {
			row.host = "127.0.0.1"
		}
		a := ask(t, s, "GET", row.path, append(row.request, "Host", row.host)...)
		if a.err != nil || a.status != row.status {
			t.Errorf("%s: %d %v %.200s", row.name, a.status, a.err, a.body)
			continue
		}
		for i := 0; i < len(row.header); i += 2 {
			if got := a.header.Get(row.header[i]); !regexp.MustCompile(row.header[i+1]).MatchString(got) {
				t.Errorf("%s: %s is %q", row.name, row.header[i], got)
			}
		}
		for _, want := range row.body {
			if !bytes.Contains(a.body, []byte(want)) {
				t.Errorf("%s: no %q in %.2000s", row.name, want, a.body)
			}
		}
		if row.without != "" && bytes.Contains(a.body, []byte(row.without)) {
			t.Errorf("%s: %q", row.name, a.body)
		}
		if strings.HasPrefix(row.path, "/ipfs/") && a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: may not be read by other origins", row.name)
		}
	}
	for _, method := range []string{"GET", "OPTIONS"} {
		a := ask(t, s, method, "/ipfs/"+inlineCID)
		for name, want := range map[string][]string{
			"Access-Control-Allow-Methods":  {"GET", "HEAD", "OPTIONS"},
			"Access-Control-Allow-Headers":  {"Content-Type", "Range", "User-Agent", "X-Requested-With"},
			"Access-Control-Expose-Headers": {"Content-Length", "Content-Range", "X-Chunked-Output", "X-Ipfs-Path", "X-Ipfs-Roots", "X-Stream-Output", "Ipfs-Uri"},
		} {
			for _, w := range want {
				if !slices.Contains(a.header.Values(name), w) {
					t.Errorf("%s: %s is %q, without %s", method, name, a.header.Values(name), w)
				}
			}
		}
	}
	if a := ask(t, s, "POST", "/ipfs/"+inlineCID); a.status != 405 {
		t.Errorf("POST: %d", a.status)
	}
}

const cidOfRedirects = "bafybeiesjgoros75o5meijhfvnxmy7kzkynhqijlzmypw3nry6nvsjqkzy"

// A client may take the gateway for a proxy and open a tunnel to it.
func TestProxy(t *testing.T) {
	t.Parallel()
	s := server(t, fixtures(t), gateway.Options{Hosts: []string{"example.com"}})
	for _, row := range []struct {
		url, body, location string
		status              int
	}{
		{"http://" + hello + ".ipfs.example.com/", "hello", "", 200},
		{"http://example.com/ipfs/" + helloV0 + "/", "", "http://" + hello0to1 + ".ipfs.example.com/", 301},
		{"http://" + listed + ".ipfs.example.com/ipfs/file.txt", "I am a txt file", "", 200},
	} {
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		for name, transport := range map[string]*http.Transport{
			"proxy":  {Proxy: http.ProxyURL(u)},
			"tunnel": {DialContext: tunnel(s)},
		} {
			client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			req, err := http.NewRequestWithContext(t.Context(), "GET", row.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatalf("%s, %s: %v", name, row.url, err)
			}
			body, err := io.ReadAll(res.Body)
			if err := errors.Join(err, res.Body.Close()); err != nil {
				t.Error(err)
			}
			if res.StatusCode != row.status || !strings.Contains(string(body), row.body) || res.Header.Get("Location") != row.location {
				t.Errorf("%s, %s: %d, to %q: %.100s", name, row.url, res.StatusCode, res.Header.Get("Location"), body)
			}
			transport.CloseIdleConnections()
		}
	}
}

// tunnel connects through a server with CONNECT.
func tunnel(s *httptest.Server) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, s.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(c, "CONNECT "+addr+" HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"); err != nil {
			return nil, err
		}
		//nolint:bodyclose // it has none; what follows is the tunnel's
		res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: http.MethodConnect})
		if err == nil && res.StatusCode != 200 {
			err = errors.New(res.Status)
		}
		return c, err
	}
}
