package uploadertest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/sha256mb"
)

// Store is the part of the service's API that uploads need, and its gateway, in
// memory. It is safe for concurrent use.
type Store struct {
	token string

	mu      sync.Mutex
	blocks  map[string][]byte // by multihash
	uploads map[string]*upload
}

type upload struct {
	root  string // as spelled by the client
	name  string
	parts []string
}

// NewStore makes an empty store that requires this token.
func NewStore(token string) *Store {
	return &Store{token: token, blocks: map[string][]byte{}, uploads: map[string]*upload{}}
}

// Parts returns the archives that were received for a root.
func (s *Store) Parts(root cid.Cid) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uploads[key(root)]; u != nil {
		return slices.Clone(u.parts)
	}
	return nil
}

// Name returns the name of the upload of a root.
func (s *Store) Name(root cid.Cid) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uploads[key(root)]; u != nil {
		return u.name
	}
	return ""
}

// Complete reports whether every block below the root is there.
func (s *Store) Complete(root cid.Cid) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.complete(root)
}

// Lose drops a block, but not the record of its archive.
func (s *Store) Lose(c cid.Cid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blocks, key(c))
}

// Damage flips a bit of a block.
func (s *Store) Damage(c cid.Cid) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := slices.Clone(s.blocks[key(c)])
	p[len(p)/2] ^= 4
	s.blocks[key(c)] = p
}

// Reset forgets everything.
func (s *Store) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.blocks)
	clear(s.uploads)
}

func key(c cid.Cid) string { return string(c.Hash()) }

// walk visits the blocks below c, depth first, each once. Missing blocks are
// visited with nil data.
func (s *Store) walk(c cid.Cid, seen map[string]bool, visit func(c cid.Cid, data []byte) error) error {
	if seen[key(c)] {
		return nil
	}
	seen[key(c)] = true
	data := s.blocks[key(c)]
	if err := visit(c, data); err != nil || data == nil {
		return err
	}
	return links.Each(c, data, func(c cid.Cid) error { return s.walk(c, seen, visit) })
}

var errMissing = errors.New("missing")

func (s *Store) complete(root cid.Cid) bool {
	return s.walk(root, map[string]bool{}, func(_ cid.Cid, data []byte) error {
		if data == nil {
			return errMissing
		}
		return nil
	}) == nil
}

// ServeHTTP implements http.Handler.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rest, ok := strings.CutPrefix(r.URL.Path, "/ipfs/"); ok {
		s.gateway(w, r, rest)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+s.token {
		refuse(w, http.StatusUnauthorized, "ERROR_TOKEN_NOT_FOUND", "API Key not found.")
		return
	}
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/upload":
		s.upload(w, r)
	case r.Method == http.MethodGet:
		s.check(w, strings.Trim(r.URL.Path, "/"))
	default:
		http.NotFound(w, r)
	}
}

func (s *Store) check(w http.ResponseWriter, path string) {
	root, err := cid.Decode(path)
	if err != nil {
		refuse(w, http.StatusBadRequest, "ERROR_INVALID_CID", "Invalid CID: "+path)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[key(root)]
	if u == nil {
		refuse(w, http.StatusNotFound, "HTTP_ERROR", "NFT not found")
		return
	}
	s.reply(w, root, u)
}

// reply writes the API's reply. The caller holds the lock.
func (s *Store) reply(w http.ResponseWriter, root cid.Cid, u *upload) {
	status := "pinning"
	if s.complete(root) {
		status = "pinned"
	}
	writeJSON(w, http.StatusOK, map[string]any{"ok": true, "value": map[string]any{
		"cid": u.root, "name": u.name, "parts": u.parts, "type": "application/car", "scope": "test", "size": 0,
		"pin": map[string]any{"cid": u.root, "status": status}, "files": []string{}, "deals": []string{},
	}})
}

// upload stores an archive, completely or not at all.
func (s *Store) upload(w http.ResponseWriter, r *http.Request) {
	var digest sha256mb.Digest
	root, blocks, err := readArchive(io.TeeReader(r.Body, &digest))
	switch {
	case errors.Is(err, car.ErrCorrupt):
		refuse(w, http.StatusBadRequest, "ERROR_INVALID_CAR", "Invalid CAR file received: "+err.Error())
		return
	case err != nil:
		refuse(w, http.StatusInternalServerError, "Error", err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, p := range blocks {
		s.blocks[k] = p
	}
	u := s.uploads[key(root)]
	if u == nil {
		u = &upload{root: root.String()}
		s.uploads[key(root)] = u
	}
	u.name = r.Header.Get("X-Name")
	if part := car.CID(digest.Sum256()).String(); !slices.Contains(u.parts, part) {
		u.parts = append(u.parts, part)
	}
	s.reply(w, root, u)
}

// readArchive reads and checks an archive as the API does.
func readArchive(r io.Reader) (root cid.Cid, blocks map[string][]byte, err error) {
	rd, err := car.NewReader(r, car.ReaderOptions{})
	if err != nil {
		return cid.Undef, nil, err
	}
	if len(rd.Roots) == 0 {
		return cid.Undef, nil, errors.New("missing roots")
	}
	if len(rd.Roots) > 1 {
		return cid.Undef, nil, errors.New("too many roots")
	}
	blocks = map[string][]byte{}
	n := 0
	for ; ; n++ {
		s, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return cid.Undef, nil, err
		}
		if len(s.Data) > car.MaxBlockBytes {
			return cid.Undef, nil, fmt.Errorf("block too big: %d > %d", len(s.Data), car.MaxBlockBytes)
		}
		p := slices.Clone(s.Data)
		if p == nil {
			p = []byte{}
		}
		blocks[key(s.Cid)] = p
	}
	root = rd.Roots[0]
	data, ok := blocks[key(root)]
	if !ok {
		return cid.Undef, nil, errors.New("missing root block")
	}
	hasLinks := errors.New("has links")
	if err := links.Each(root, data, func(cid.Cid) error { return hasLinks }); errors.Is(err, hasLinks) && n < 2 {
		return cid.Undef, nil, errors.New("CAR must contain at least one non-root block")
	}
	return root, blocks, nil
}

// gateway is a trustless gateway for the stored blocks.
func (s *Store) gateway(w http.ResponseWriter, r *http.Request, path string) {
	c, err := cid.Decode(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.blocks[key(c)]
	if !ok {
		http.Error(w, "block was not found locally: ipld: could not find "+c.String(), http.StatusNotFound)
		return
	}
	if r.URL.Query().Get("format") == "raw" {
		w.Header().Set("Content-Type", "application/vnd.ipld.raw")
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data)
		return
	}
	w.Header().Set("Content-Type", "application/vnd.ipld.car; version=1; order=dfs; dups=n")
	p := car.AppendHeader(nil, c)
	err = s.walk(c, map[string]bool{}, func(c cid.Cid, data []byte) error {
		if data == nil {
			return errMissing
		}
		p = binary.AppendUvarint(p, uint64(c.ByteLen()+len(data)))
		p = append(append(p, c.KeyString()...), data...)
		if len(p) < 1<<20 {
			return nil
		}
		_, err := w.Write(p)
		p = p[:0]
		return err
	})
	if _, werr := w.Write(p); werr != nil || err != nil {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // the only way to show that the reply is incomplete
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]any{"ok": false, "error": map[string]string{"code": code, "message": message}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	p, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(p)
}
