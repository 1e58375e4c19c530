package service_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/carload/carload/internal/store"
)

// Clients see damage in the store by status and parts, whether it was found at
// start, by a reader or by a check. They can mend it by sending what parts
// lacks.
func TestDamageIsSeenByClients(t *testing.T) {
	t.Parallel()
	leaves := []block{raw("leaf a"), raw("leaf b"), raw("leaf c")}
	root := pbNode("root", leaves[0].CID, leaves[1].CID, leaves[2].CID)
	gateway := func(s *server) int { return s.do("GET", "/ipfs/"+leaves[1].CID.String()+"?format=raw", nil).status }
	for _, row := range []struct {
		name string
		harm func(path string) error
		find func(t *testing.T, s *server, dir string) *server
	}{
		{"deleted, found at the start", os.Remove, func(t *testing.T, s *server, dir string) *server {
			s.close()
			again := newServer(t, options{Dir: dir})
			again.token = s.token
			return again
		}},
		{"flipped, found by a reader", func(path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, flip(data, -1), 0o600)
		}, func(t *testing.T, s *server, _ string) *server {
			if got := gateway(s); got != 404 {
				t.Errorf("gateway: %d", got)
			}
			return s
		}},
		{"cut, found by a check", func(path string) error { return os.Truncate(path, 90) }, func(t *testing.T, s *server, _ string) *server {
			if r := fsck(t, s); len(r.Problems) != 1 {
				t.Errorf("%+v", r)
			}
			return s
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := newServer(t, options{Dir: dir})
			var all []string
			for _, l := range leaves {
				all = s.putCAR(carOf(root, l)).upload(t).Parts
			}
			pinned := func(want string) {
				t.Helper()
				u := s.do("GET", "/"+root.CID.String(), nil).upload(t)
				if got := s.status(root.CID); got != want || u.Pin.Status != want {
					t.Errorf("check says %s, the upload is %s, want %s", got, u.Pin.Status, want)
				}
				if a := s.do("GET", "/pins?status="+want, nil); a.status != 200 {
					t.Errorf("pins: %d %s", a.status, a.raw)
				}
			}
			pinned("pinned")
			if err := row.harm(filepath.Join(dir, "shards", all[1][len(all[1])-2:], all[1]+".car")); err != nil {
				t.Fatal(err)
			}
			s = row.find(t, s, dir)
			pinned("pinning")
			u := s.do("GET", "/"+root.CID.String(), nil).upload(t)
			if !slices.Equal(u.Parts, []string{all[0], all[2]}) {
				t.Errorf("parts %q of %q", u.Parts, all)
			}
			var st store.Status
			a := s.do("GET", "/internal/status", nil)
			if err := json.Unmarshal(a.Value, &st); err != nil || st.Shards != 3 || st.DamagedShards != 1 || st.LostBlocks != 1 {
				t.Errorf("%s: %v", a.raw, err)
			}
			if a := s.do("GET", "/metrics", nil); !strings.Contains(string(a.raw), "carload_store_damaged_shards 1\n") ||
				!strings.Contains(string(a.raw), "carload_store_lost_blocks 1\n") {
				t.Errorf("metrics: %s", a.raw)
			}
			if u := s.putCAR(carOf(root, leaves[1])).upload(t); u.Pin.Status != "pinned" || !slices.Equal(u.Parts, all) {
				t.Errorf("sent again: %+v", u)
			}
			pinned("pinned")
			if got := gateway(s); got != 200 {
				t.Errorf("sent again: gateway %d", got)
			}
		})
	}
	if a := newServer(t, options{}).do("GET", "/internal/status", nil, "Authorization", ""); a.status != 401 {
		t.Errorf("status without a key: %d", a.status)
	}
}
