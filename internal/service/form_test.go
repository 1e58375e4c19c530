package service_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// formPart is a part of a form. If data is nil, it is a plain field.
type formPart struct{ field, name, mime, data string }

func form(t *testing.T, parts ...formPart) (body []byte, mime string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		h := textproto.MIMEHeader{}
		quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
		disposition := `form-data; name="` + quote.Replace(p.field) + `"`
		if p.name != "" {
			disposition += `; filename="` + quote.Replace(p.name) + `"`
		}
		h.Set("Content-Disposition", disposition)
		if p.mime != "" {
			h.Set("Content-Type", p.mime)
		}
		pw, err := w.CreatePart(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pw.Write([]byte(p.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), w.FormDataContentType()
}

func TestUploadForm(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	one, two := "hello world! 1", "hello world! 2"
	const octets = "application/octet-stream"
	for _, row := range []struct {
		name  string
		parts []formPart
		cid   string
		size  int64
		files int
	}{
		{
			"two files",
			[]formPart{{"file", "name1", octets, one}, {"file", "name2", octets, two}},
			"bafybeifrkxqq5bbn4fkykfyggoltlb7vn3moyhr3pldzx3me6yiukcfsem", 130, 2,
		},
		{
			"without names",
			[]formPart{{"file", "blob", octets, one}, {"file", "blob", octets, two}},
			"bafybeiaowg4ssqzemwgdlisgphib54clq62arief7ssabov5r3pbfh7vje", 66, 2,
		},
		{
			"no file name at all",
			[]formPart{{"file", "", octets, one}, {"file", "", octets, two}},
			"bafybeiaowg4ssqzemwgdlisgphib54clq62arief7ssabov5r3pbfh7vje", 66, 2,
		},
		{
			"extensions",
			[]formPart{{"file", "name1.png", "", one}, {"file", "name2.png", "", two}},
			"bafybeieoib3k2cy2x7nlmsfpid3fhnhlewib7ekatui4i27qfio6vutmzm", 138, 2,
		},
		{
			"other fields do not count",
			[]formPart{{"x", "", "", "y"}, {"file", "hello.txt", "", "hello world"}},
			"bafybeic6svhkwl3y2wvkj33weshyjjs5cbvgijh7yo3kjasyglrdwe2l74", 0, 1,
		},
		{ // nft.storage 7.2.0, which has the original's importer, computes this root
			"names that the importer changes",
			[]formPart{
				{"file", " a.txt\t", octets, one},
				{"file", `b\c.txt`, octets, two},
				{"file", `b\\d`, octets, "hello world! 3"},
				{"file", "\u3000e / f \ufeff", octets, "hello world! 4"},
				{"file", "b/x\u00a0", octets, "hello world! 5"},
			},
			"bafybeiel6pkljcvzf346gis24gxudsvvhobew7qdnvrom4h6e3fspg665m", 0, 5,
		},
		{"directory", []formPart{
			{"file", "hello.txt", "", "hello world"},
			{"file", "metadata.json", "", "{\n  \"from\": \"incognito\"\n}"},
		}, "bafybeigkms36pnnjsa7t2mq2g4mx77s4no2hilirs4wqx3eebbffy2ay3a", 0, 2},
	} {
		body, mime := form(t, row.parts...)
		u := s.do("POST", "/upload", body, "Content-Type", mime).upload(t)
		if u.CID != row.cid || row.size != 0 && u.Size != row.size || u.Type != "directory" || u.Pin.Status != "pinned" || len(u.Files) != row.files {
			t.Errorf("%s: %+v", row.name, u)
		}
		if u.Files[0].Type != octets {
			t.Errorf("%s: type %s", row.name, u.Files[0].Type)
		}
	}
	body, mime := form(t, formPart{"file", "", "", "plain"})
	if a := s.do("POST", "/upload", body, "Content-Type", mime); a.status != 400 || a.Error.Message != "missing Content-Type in multipart part" {
		t.Errorf("plain field: %d %s", a.status, a.raw)
	}
	body, mime = form(t, formPart{"x", "", "", "y"})
	if a := s.do("POST", "/upload", body, "Content-Type", mime); a.status != 500 {
		t.Errorf("no files: %d %s", a.status, a.raw)
	}
	if a := s.do("POST", "/upload", body[:len(body)-20], "Content-Type", mime); a.status != 500 {
		t.Errorf("cut form: %d %s", a.status, a.raw)
	}
	body, mime = form(t, formPart{"file", "a/b/c.txt", "", "deep"}, formPart{"file", "a/d.txt", "", "shallow"})
	u := s.do("POST", "/upload", body, "Content-Type", mime).upload(t)
	if got := s.do("GET", "/ipfs/"+u.CID+"/a/b/c.txt", nil); string(got.raw) != "deep" {
		t.Errorf("nested: %d %s", got.status, got.raw)
	}
}

func TestUploadFormOfManyFiles(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	var parts []formPart
	for i := range 1001 {
		parts = append(parts, formPart{"file", fmt.Sprintf("file-%d", i), "", fmt.Sprint(i)})
	}
	body, mime := form(t, parts...)
	u := s.do("POST", "/upload", body, "Content-Type", mime).upload(t)
	if u.Pin.Status != "pinned" {
		t.Fatalf("%+v", u.Pin)
	}
	if got := s.do("GET", "/ipfs/"+u.CID+"/file-777", nil); string(got.raw) != "777" {
		t.Fatalf("%d %s", got.status, got.raw)
	}
}

func TestStoreNFT(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	const trick = "ipfs://bafyreiemweb3jxougg7vaovg7wyiohwqszmgwry5xwitw3heepucg6vyd4"
	body, mime := form(t,
		formPart{"image", "cat.png", "image/png", "fake image"},
		formPart{"properties.src.0", "hello.txt", "text/plain", "hello"},
		formPart{"properties.src.1", "blob", "", "bye"},
		formPart{"meta", "", "", `{"name":"name","description":"stuff","properties":{"extra":"meta","trick":"` + trick + `","src":[{},{}]}}`},
	)
	a := s.do("POST", "/store", body, "Content-Type", mime)
	var v struct {
		IPNFT, URL string
		Data       struct {
			Image      string
			Properties struct{ Src []string }
		}
	}
	if err := json.Unmarshal(a.Value, &v); err != nil {
		t.Fatalf("%v: %s", err, a.raw)
	}
	if v.Data.Image != "ipfs://bafybeieb43wq6bqbfmyaawfmq6zuycdq4bo77zph33zxx26wvquth3qxau/cat.png" || len(v.Data.Properties.Src) != 2 {
		t.Errorf("%s", a.raw)
	}
	if v.URL != "ipfs://"+v.IPNFT+"/metadata.json" {
		t.Errorf("url %s", v.URL)
	}
	u := s.do("GET", "/"+v.IPNFT, nil).upload(t)
	if u.Type != "nft" || u.Pin.Status != "pinned" || u.Size != 896 || u.CID != "bafyreicnwbboevx6g6fykitf4nebz2kqgkqz35qvlnlcgfulhrris66m6i" {
		t.Errorf("%+v", u)
	}
	if got := s.do("GET", "/ipfs/"+v.IPNFT+"/metadata.json", nil); !bytes.Contains(got.raw, []byte("cat.png")) {
		t.Errorf("metadata: %d %s", got.status, got.raw)
	}

	for name, row := range map[string]struct {
		parts   []formPart
		status  int
		code    string
		message string
	}{
		"no meta":     {[]formPart{{"image", "cat.png", "", "x"}}, 400, "HTTP_ERROR", ""},
		"bad JSON":    {[]formPart{{"meta", "", "", "{"}}, 500, "SyntaxError", ""},
		"plain field": {[]formPart{{"meta", "", "", "{}"}, {"image", "", "", "x"}}, 400, "HTTP_ERROR", ""},
	} {
		body, mime := form(t, row.parts...)
		if a := s.do("POST", "/store", body, "Content-Type", mime); a.status != row.status || a.Error.Code != row.code {
			t.Errorf("%s: %d %s", name, a.status, a.raw)
		}
	}
	if a := s.do("POST", "/store", []byte("{}"), "Content-Type", "application/json"); a.status != 400 {
		t.Errorf("not a form: %d %s", a.status, a.raw)
	}
}

// A form's directories stay in memory until its end, so their number is
// limited.
func TestFormHasTooMuch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	parts := []formPart{{"meta", "", "", "{}"}}
	for i := range 1600 { // each makes a file and 63 directories
		parts = append(parts, formPart{"file", fmt.Sprintf("%d/%sf", i, strings.Repeat("d/", 62)), "", "x"})
	}
	for _, path := range []string{"/upload", "/store"} {
		body, mime := form(t, parts...)
		if a := s.do("POST", path, body, "Content-Type", mime); a.status != 400 || a.Error.Code != "HTTP_ERROR" {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// Names with the same hash cannot be in one HAMT.
func TestFormOfNamesWithOneHash(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	twins := []string{"ipfs-hamt-collision-name-0000001", "ipfs-00006562330ZZx-7-'FZd4YEQ];"}
	var parts []formPart
	for i := range 1000 {
		parts = append(parts, formPart{"file", fmt.Sprint("file ", i), "text/plain", "x"})
	}
	for _, name := range twins {
		parts = append(parts, formPart{"file", name, "text/plain", "x"})
	}
	body, mime := form(t, parts...)
	a := s.do("POST", "/upload", body, "Content-Type", mime)
	if a.status != 400 || !strings.Contains(a.Error.Message, fmt.Sprintf("%q", twins[0])) || !strings.Contains(a.Error.Message, fmt.Sprintf("%q", twins[1])) {
		t.Errorf("%d %s", a.status, a.raw)
	}
}
