package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
)

// asset is a file for browsers, plain and compressed.
type asset struct {
	plain, packed []byte
	kind, tag     string
}

type assets map[string]asset

// kinds are the content types by file extension. We don't ask the system, whose
// table differs from machine to machine.
var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml",
}

func loadAssets(files fs.FS) (assets, error) {
	out := make(assets)
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		kind := kinds[path.Ext(name)]
		if kind == "" {
			return fmt.Errorf("file of the console %q: unknown content type", name)
		}
		plain, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		var packed bytes.Buffer
		z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(plain); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		sum := sha256.Sum256(plain)
		out[name] = asset{plain, packed.Bytes(), kind, `"` + hex.EncodeToString(sum[:12])}
		return nil
	})
	return out, err
}

// pageName is the file of the console's page.
const pageName = "index.html"

func (c *Console) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept, Authorization")
	c.assets[pageName].serve(w, r)
}

func (c *Console) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := c.assets[r.PathValue("name")]
	if !ok || r.PathValue("name") == pageName {
		fail(w, http.StatusNotFound, "there is no such file")
		return
	}
	a.serve(w, r)
}

func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache") // browsers ask again each time; if nothing changed, they get a 304
	h.Set("Content-Type", a.kind)
	h.Add("Vary", "Accept-Encoding")
	body, tag := a.plain, a.tag+`"`
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		body, tag = a.packed, a.tag+`-gzip"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone; nobody to tell
	}
}

// plainHost reports whether a host can go into a content security policy
// unchanged. The service has checked that the host is its own, but an IPv6
// address may have a zone, which can contain anything.
func plainHost(host string) bool {
	return host != "" && !strings.ContainsFunc(host, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(".:[]-", c)
	})
}

// harden sets headers that keep other sites and uploaded content away from the
// console's pages. Uploaded files have the same origin: the gateway serves them
// below /ipfs/. So the policy lists the console's own paths.
func harden(w http.ResponseWriter, r *http.Request) {
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	origin, content := scheme+r.Host, ""
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case err != nil:
		// With a host name, the gateway may redirect each root to a subdomain.
		content = " " + scheme + "*.ipfs." + r.Host
	case strings.Contains(host, ":"):
		origin = "" // a policy can't contain an IPv6 address
	}
	own := func(path string) string {
		if origin == "" {
			return "'self'"
		}
		return origin + path
	}
	h := w.Header()
	h.Set("Content-Security-Policy", strings.Join([]string{
		"default-src 'none'",
		"script-src " + own(prefix+"assets/"),
		"worker-src " + own(prefix+"assets/"),
		"style-src " + own(prefix+"assets/"),
		"connect-src " + own(prefix) + " " + own("/ipfs/") + content,
		"img-src " + own(prefix+"assets/") + " " + own("/ipfs/") + content,
		"media-src " + own("/ipfs/") + content,
		"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	}, "; "))
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}
