package web_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader/uploadertest"
)

// job is an upload by the browser's engine. Fields that are not settings of the
// test are options of the upload.
type job map[string]any

// outcome is the result of an upload.
type outcome struct {
	Result *struct {
		Root                            string
		Name                            string
		Bytes, SentBytes                int64
		Shards, SentShards, KnownShards int
	}
	Phases      []string
	Pauses      int
	Most        int // most shards in flight at a time
	Done, Total int64
	Tries       int
	Code        string
	Message     string
	Status      int
	Hashed      []int // for each unfinished upload, the number of leaves whose digests are stored
}

// upload runs uploads one after another, under Node.
func upload(t *testing.T, jobs ...job) []outcome {
	t.Helper()
	var stdin bytes.Buffer
	for _, j := range jobs {
		all := job{"name": "file", "recipe": scaled, "maxShardBytes": 20_000, "parallel": 1, "backoffSeconds": 0.01, "completeSeconds": 0.5, "rate": nil}
		maps.Copy(all, j)
		line, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		stdin.Write(append(line, '\n'))
	}
	cmd := exec.CommandContext(t.Context(), node(t), "--no-warnings", filepath.Join("testdata", "upload.mjs"))
	cmd.Stdin = &stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var out []outcome
	for lines := bufio.NewScanner(bytes.NewReader(stdout)); lines.Scan(); {
		var o outcome
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	if len(out) != len(jobs) {
		t.Fatalf("%d outcomes of %d uploads\n%s", len(out), len(jobs), stderr.Bytes())
	}
	return out
}

// sample is a file, and what the Go engine makes from it.
func sample(t *testing.T, size int) (*input, packed) {
	t.Helper()
	in := file(t, "sample", scaled, 20_000, content("upload", size))
	p, err := in.plan(t)
	if err != nil {
		t.Fatal(err)
	}
	return in, pack(t, p)
}

func decode(t *testing.T, root string) cid.Cid {
	t.Helper()
	c, err := cid.Decode(root)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The service accepts what the browser's engine sends, and reports it complete.
// A second upload sends nothing.
func TestUploadToTheService(t *testing.T) {
	t.Parallel()
	st, err := store.Open(t.Context(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	svc, err := service.New(t.Context(), st, service.Options{})
	if err != nil {
		t.Fatal(errors.Join(err, st.Close()))
	}
	_, token, err := st.CreateKey(t.Context(), store.KeyOptions{Name: "browser"})
	if err != nil {
		t.Fatal(err)
	}
	var posts, gets int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			posts++ // no lock needed: parallel is 1
		case http.MethodGet:
			gets++
		}
		svc.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		srv.Close()
		if err := errors.Join(svc.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	in, want := sample(t, 100_000)
	j := job{"file": in.File, "endpoint": srv.URL + "/", "token": token, "name": "häppy.bin"}
	out := upload(t, j, j, job{"file": in.File, "endpoint": srv.URL, "token": token + "x"})
	first, second, third := out[0], out[1], out[2]
	if first.Result == nil || first.Result.Root != want.Root || first.Result.Shards != len(want.Shards) || first.Result.SentShards != len(want.Shards) || first.Done != first.Total {
		t.Fatalf("%+v, want root %s in %d shards", first, want.Root, len(want.Shards))
	}
	if !slices.Contains(first.Phases, "hashing") || !slices.Contains(first.Phases, "sending") || !slices.Contains(first.Phases, "done") {
		t.Errorf("the phases are %v", first.Phases)
	}
	if complete, err := st.Complete(t.Context(), decode(t, want.Root)); err != nil || !complete {
		t.Errorf("complete: %t, %v", complete, err)
	}
	if second.Result == nil || second.Result.SentShards != 0 || second.Result.KnownShards != len(want.Shards) {
		t.Errorf("%+v, want nothing sent", second)
	}
	if third.Code != "unauthorized" || third.Status != http.StatusUnauthorized {
		t.Errorf("%+v, want a refusal of the key", third)
	}
	if posts != len(want.Shards) || gets != 3 {
		t.Errorf("%d shards were sent and %d questions asked, want %d and 3", posts, gets, len(want.Shards))
	}
}

// Each fault ends well, or with the right message.
func TestUploadFaults(t *testing.T) {
	t.Parallel()
	in, want := sample(t, 50_000)
	n := len(want.Shards)
	if n < 3 {
		t.Fatalf("%d shards", n)
	}
	refusals := uploadertest.Repeat
	type row struct {
		op     uploadertest.Op
		faults []uploadertest.Fault
		job    job
		code   string // empty if it succeeds
		posts  int    // that reach the service
	}
	rows := map[string]row{
		"none":                  {posts: n},
		"lost reply":            {faults: []uploadertest.Fault{uploadertest.LoseReply}, posts: n + 1},
		"reset":                 {faults: []uploadertest.Fault{uploadertest.Drop(1000)}, posts: n + 1},
		"503 and 502":           {faults: []uploadertest.Fault{uploadertest.Status(503), uploadertest.Status(502)}, posts: n + 2},
		"no end of 503":         {faults: refusals(3, uploadertest.Status(503)), job: job{"tries": 3}, code: "service", posts: 3},
		"maintenance":           {faults: []uploadertest.Fault{uploadertest.Maintenance}, code: "maintenance", posts: 1},
		"429, wait 1 s":         {faults: []uploadertest.Fault{uploadertest.RateLimited("1")}, posts: n + 1},
		"413":                   {faults: []uploadertest.Fault{uploadertest.Page(413)}, code: "too-large", posts: 1},
		"401":                   {faults: []uploadertest.Fault{uploadertest.Refuse(401, "ERROR_TOKEN_NOT_FOUND", "API Key not found.")}, code: "unauthorized", posts: 1},
		"403":                   {faults: []uploadertest.Fault{uploadertest.Refuse(403, "ERROR_ACCOUNT_RESTRICTED", "Account restricted.")}, code: "forbidden", posts: 1},
		"quota":                 {faults: []uploadertest.Fault{uploadertest.Refuse(403, "ERROR_QUOTA_EXCEEDED", "The quota of this API Key is 5 bytes.")}, code: "quota", posts: 1},
		"disk full":             {faults: []uploadertest.Fault{uploadertest.Refuse(507, "ERROR_INSUFFICIENT_STORAGE", "full")}, code: "disk-full", posts: 1},
		"a login page":          {faults: []uploadertest.Fault{uploadertest.Page(200)}, code: "wrong-reply", posts: 1},
		"a cut reply":           {faults: []uploadertest.Fault{uploadertest.Truncate(20)}, posts: n + 1},
		"another root":          {faults: []uploadertest.Fault{uploadertest.NamesRoot("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")}, code: "root-mismatch", posts: 1},
		"damaged on the way":    {faults: []uploadertest.Fault{uploadertest.Flip(500)}, posts: n + 1},
		"damaged at home":       {faults: refusals(3, uploadertest.Flip(500)), code: "changed", posts: 3},
		"refused for good":      {faults: []uploadertest.Fault{uploadertest.Refuse(500, "Error", "missing root block")}, code: "refused", posts: 1},
		"asking fails at first": {op: uploadertest.Check, faults: []uploadertest.Fault{uploadertest.Status(500), uploadertest.Drop(0)}, posts: n},
		"complete late":         {op: uploadertest.Check, faults: []uploadertest.Fault{uploadertest.Pass, uploadertest.Reports("queued"), uploadertest.Reports("pinning")}, posts: n},
	}
	var (
		names   []string
		servers []*uploadertest.Server
		jobs    []job
	)
	for name, row := range rows {
		srv := uploadertest.NewServer(t, uploadertest.Options{})
		srv.Script(row.op, row.faults...)
		j := job{"file": in.File, "endpoint": srv.URL, "token": srv.Token}
		maps.Copy(j, row.job)
		names, servers, jobs = append(names, name), append(servers, srv), append(jobs, j)
	}
	for i, out := range upload(t, jobs...) {
		name, srv, row := names[i], servers[i], rows[names[i]]
		switch {
		case out.Code != row.code:
			t.Errorf("%s: %+v, want %q", name, out, row.code)
		case row.code != "" && (out.Message == "" || strings.Contains(out.Message, srv.Token)):
			t.Errorf("%s: the message is %q", name, out.Message)
		case row.code == "" && (out.Result.Root != want.Root || !srv.Store.Complete(decode(t, want.Root)) || srv.Store.Name(decode(t, want.Root)) != "file"):
			t.Errorf("%s: %+v", name, out)
		}
		if got := srv.Count(uploadertest.Upload).Requests; got != row.posts {
			t.Errorf("%s: %d shards arrived, want %d", name, got, row.posts)
		}
	}
}

// Shards that the service has, whoever sent them, are not sent again. Shards
// that it has lost are.
func TestUploadSendsWhatIsMissing(t *testing.T) {
	t.Parallel()
	in, want := sample(t, 100_000)
	root, n := decode(t, want.Root), len(want.Shards)
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	j := job{"file": in.File, "endpoint": srv.URL, "token": srv.Token}
	stopped := maps.Clone(j)
	stopped["cancel"] = 2
	out := upload(t, stopped)[0]
	if out.Code != "cancelled" {
		t.Fatalf("%+v", out)
	}
	parts := len(srv.Store.Parts(root))
	if parts < 2 || parts >= n {
		t.Fatalf("%d of %d shards were sent", parts, n)
	}
	out = upload(t, j)[0]
	if out.Result == nil || out.Result.KnownShards != parts || out.Result.SentShards != n-parts {
		t.Errorf("%+v, want %d sent, of %d", out, n-parts, n)
	}
	if got := len(srv.Store.Parts(root)); got != n || !srv.Store.Complete(root) {
		t.Errorf("the service has %d archives of %d", got, n)
	}
}

func TestUploadPauses(t *testing.T) {
	t.Parallel()
	in, want := sample(t, 100_000)
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	out := upload(t, job{"file": in.File, "endpoint": srv.URL, "token": srv.Token, "pause": 1, "parallel": 3})[0]
	if out.Result == nil || out.Result.Root != want.Root || out.Pauses != 1 || out.Most < 2 || out.Most > 3 {
		t.Errorf("%+v", out)
	}
	if !srv.Store.Complete(decode(t, want.Root)) {
		t.Error("it is not complete")
	}
}

// If the service never reports the upload complete, it is not done. The engine
// checks shard by shard what the service holds, and sends nothing twice.
func TestUploadThatIsNeverComplete(t *testing.T) {
	t.Parallel()
	in, want := sample(t, 50_000)
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	srv.Always(uploadertest.Check, uploadertest.Reports("pinning"))
	srv.Script(uploadertest.Check, uploadertest.Pass)
	out := upload(t, job{"file": in.File, "endpoint": srv.URL, "token": srv.Token})[0]
	if out.Code != "incomplete" {
		t.Errorf("%+v", out)
	}
	if got := srv.Count(uploadertest.Upload).Requests; got != len(want.Shards) {
		t.Errorf("%d shards arrived, want %d", got, len(want.Shards))
	}
}

// An upload that was stopped while hashing continues where it was. If stored
// digests no longer match the file, the service finds out, and they are
// forgotten.
func TestUploadGoesOnHashing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("100 MB, three times")
	}
	const size = 100_000_000
	in := file(t, "hashing", standard, splitter.DefaultMaxShardBytes, content("before", size))
	after := file(t, "hashing", standard, splitter.DefaultMaxShardBytes, content("after", size))
	p, err := after.plan(t)
	if err != nil {
		t.Fatal(err)
	}
	want := pack(t, p)
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	j := job{"file": in.File, "endpoint": srv.URL, "token": srv.Token, "recipe": standard, "maxShardBytes": splitter.DefaultMaxShardBytes, "remember": true, "keepSeconds": 0}
	stopped, changed := maps.Clone(j), maps.Clone(j)
	stopped["stopHashing"] = true
	changed["content"] = after.File
	out := upload(t, stopped, changed, j)
	if first := out[0]; first.Code != "cancelled" || len(first.Hashed) != 1 || first.Hashed[0] < 1 || first.Hashed[0] > 95 {
		t.Fatalf("%+v, want some of 96 digests to be remembered", first)
	}
	// The first leaves were not hashed again, so they have the old file's
	// digests.
	if second := out[1]; second.Code != "changed" || len(second.Hashed) != 0 {
		t.Errorf("%+v, want that it changed, and nothing to be remembered", second)
	}
	if third := out[2]; third.Result == nil || third.Result.Root != want.Root || !srv.Store.Complete(decode(t, want.Root)) {
		t.Errorf("%+v, want root %s", third, want.Root)
	}
}
