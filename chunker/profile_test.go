package chunker_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carload/carload/chunker"
)

// TestProfilesAreFrozen lists every named profile. A change here changes
// people's links, so never "fix" it.
func TestProfilesAreFrozen(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for _, p := range chunker.Profiles() {
		got[p.Name] = p.Fingerprint()
		if p.Programs() == "" {
			t.Errorf("%s stands for no program", p.Name)
		}
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	want := map[string]string{
		"unixfs-v1-2025": "cidv1+size-1048576+balanced+width-1024+raw-leaves+hamt-block-bytes>262144+fanout-256",
		"unixfs-v0-2015": "cidv0+size-262144+balanced+width-174+dag-pb-leaves+hamt-links-bytes>262144+fanout-256",
		"kubo-cidv1":     "cidv1+size-262144+balanced+width-174+raw-leaves+hamt-links-bytes>262144+fanout-256",
		"nft.storage":    "cidv1+size-262144+balanced+width-174+raw-leaves+hamt-links-count>=1000+fanout-256",
		"web3.storage":   "cidv1+size-1048576+balanced+width-1024+raw-leaves+hamt-links-count>=1000+fanout-256",
		"storacha":       "cidv1+size-1048576+balanced+width-1024+raw-leaves+hamt-links-count>1000+fanout-256",
		"ipfs-car":       "cidv1+size-1048576+balanced+width-1024+raw-leaves+hamt-links-count>1000+fanout-256",
		"ipfs-car-1":     "cidv1+size-262144+balanced+width-174+raw-leaves+hamt-links-count>1000+fanout-256",
		"helia":          "cidv1+size-1048576+balanced+width-1024+raw-leaves+hamt-links-bytes>262144+fanout-256",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if p := chunker.Profiles()[0]; p != chunker.UnixFSv1() || p.Name != "unixfs-v1-2025" {
		t.Errorf("the default is %s", p.Name)
	}
}

func TestProfileNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"kubo-cidv1":                                "kubo-cidv1",
		"kubo-cidv1+width-1024":                     "kubo-cidv1+width-1024",
		"kubo-cidv1+width-174":                      "kubo-cidv1",
		"unixfs-v0-2015+trickle+raw-leaves":         "unixfs-v0-2015+trickle+raw-leaves",
		"unixfs-v0-2015+cidv1+raw-leaves":           "unixfs-v0-2015+cidv1+raw-leaves",
		"kubo-cidv1+rabin":                          "kubo-cidv1+rabin",
		"kubo-cidv1+rabin-min:100-avg:200-max:300":  "kubo-cidv1+rabin-100-200-300",
		"kubo-cidv1+buzhash+size-262144":            "kubo-cidv1",
		"storacha+hamt-links-count:500+fanout-1024": "storacha+hamt-links-count>500+fanout-1024",
		"storacha+hamt-never":                       "storacha+hamt-never",
		chunker.UnixFSv1().Fingerprint():            chunker.UnixFSv1().Fingerprint(),
	} {
		p, err := chunker.ProfileNamed(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if p.Name != want {
			t.Errorf("%s is called %s, want %s", name, p.Name, want)
		}
		again, err := chunker.ProfileNamed(p.Name)
		if err != nil || again != p {
			t.Errorf("%s: by its name it is %+v, %v", name, again, err)
		}
		byParts, err := chunker.ProfileNamed(p.Fingerprint())
		if err != nil || byParts.Fingerprint() != p.Fingerprint() {
			t.Errorf("%s: by its fingerprint it is %+v, %v", name, byParts, err)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back chunker.Profile
		if err := json.Unmarshal(text, &back); err != nil || back != p {
			t.Errorf("%s: as JSON, %s, it is %+v, %v", name, text, back, err)
		}
	}
}

func TestProfileErrors(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"":                                  `there is no profile ""`,
		"kubo":                              `there is no profile "kubo"`,
		"kubo-cidv1+":                       `"" is not part`,
		"kubo-cidv1+width":                  "number",
		"kubo-cidv1+width-1":                "between 2 and",
		"kubo-cidv1+width-40000":            "between 2 and",
		"kubo-cidv1+size-0":                 "1 to 2097152",
		"kubo-cidv1+size-2097153":           "1 to 2097152",
		"unixfs-v0-2015+size-2097152":       "1 to 2097088",
		"kubo-cidv1+fanout-100":             "power of two",
		"kubo-cidv1+fanout-2048":            "power of two",
		"kubo-cidv1+hamt-links-count:0":     "at least 1",
		"kubo-cidv1+hamt-links:1000":        "HAMT rule",
		"kubo-cidv1+rabin-10-20-30":         "16 ≤ min",
		"kubo-cidv1+rabin-100-50-300":       "min < avg",
		"kubo-cidv1+rabin-100-200-30000000": "max ≤",
		"kubo-cidv1+rabin-x":                "not a number",
		"kubo-cidv1+rabin-1-2":              "one size or three",
		"kubo-cidv1+buzhash-1":              "chunker",
		"cidv1+size-1":                      "width",
	} {
		if p, err := chunker.ProfileNamed(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want an error with %q", name, p, err, want)
		}
	}
}

// TestChangedProfileIsRenamed: a DAG never claims the name of a profile that it
// was not built with.
func TestChangedProfileIsRenamed(t *testing.T) {
	t.Parallel()
	p := chunker.UnixFSv1()
	p.Width = 7
	d, err := chunker.Build(t.Context(), bytesSource("x"), chunker.Options{Profile: p})
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Profile().Name; got != "unixfs-v1-2025+width-7" {
		t.Errorf("the profile is called %s", got)
	}
}
