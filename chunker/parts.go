package chunker

import (
	"fmt"
	"strconv"
	"strings"
)

// A profile can be written as parts: "cidv1+size-1048576+balanced+…". Each part
// sets one thing. Parts after the name of a profile change it.

// parts returns the settings of the profile as text, without its name.
func (p Profile) parts() []string {
	chunker := p.Chunker
	if chunker == "" {
		chunker = "size-" + strconv.Itoa(p.ChunkBytes)
	}
	leaves := "dag-pb-leaves"
	if p.RawLeaves {
		leaves = "raw-leaves"
	}
	return []string{
		"cidv" + strconv.Itoa(p.CidVersion),
		chunker,
		p.Layout.String(),
		"width-" + strconv.Itoa(p.Width),
		leaves,
		"hamt-" + p.HAMT.String(),
		"fanout-" + strconv.Itoa(p.Fanout),
	}
}

// Fingerprint returns the settings of the profile as text, without its name.
// Profiles with the same settings have the same fingerprint. It does not change
// between releases, so it can be part of a key on disk.
func (p Profile) Fingerprint() string { return strings.Join(p.parts(), "+") }

func (p *Profile) set(part string) error {
	number := func(prefix string, into *int) error {
		n, err := strconv.Atoi(strings.TrimPrefix(part, prefix))
		if err != nil {
			return fmt.Errorf("%q: a number must follow %q", part, prefix)
		}
		*into = n
		return nil
	}
	name, _, _ := strings.Cut(part, "-")
	switch {
	case part == "cidv0" || part == "cidv1":
		p.CidVersion = int(part[4] - '0')
	case name == "size":
		p.Chunker = ""
		return number("size-", &p.ChunkBytes)
	case name == "rabin" || name == "buzhash":
		c, err := parseCutter(part)
		p.ChunkBytes, p.Chunker = 0, c.spec
		return err
	case part == "balanced" || part == "trickle":
		return p.Layout.UnmarshalText([]byte(part))
	case name == "width":
		return number("width-", &p.Width)
	case part == "raw-leaves" || part == "dag-pb-leaves":
		p.RawLeaves = part == "raw-leaves"
	case name == "hamt":
		return p.HAMT.UnmarshalText([]byte(strings.TrimPrefix(part, "hamt-")))
	case name == "fanout":
		return number("fanout-", &p.Fanout)
	default:
		return fmt.Errorf("%q is not part of a profile", part)
	}
	return nil
}

// ProfileNamed finds a profile by its name. Parts may follow the name of one of
// [Profiles] and change it, as in "kubo-cidv1+width-1024": cidv0, cidv1,
// size-BYTES, rabin, rabin-AVG, rabin-MIN-AVG-MAX, buzhash, balanced, trickle,
// width-LINKS, raw-leaves, dag-pb-leaves, hamt-RULE (see [ParseSharding]) and
// fanout-BUCKETS. A [Profile.Fingerprint] is a name as well.
func ProfileNamed(name string) (Profile, error) {
	parts := strings.Split(name, "+")
	p, ok := frozenNamed(parts[0])
	if ok {
		parts = parts[1:]
	} else if len(parts) == 1 {
		return Profile{}, fmt.Errorf("there is no profile %q", name)
	}
	for _, part := range parts {
		if err := p.set(part); err != nil {
			return Profile{}, fmt.Errorf("profile %q: %w", name, err)
		}
	}
	if err := p.Validate(); err != nil {
		return Profile{}, fmt.Errorf("profile %q: %w", name, err)
	}
	return p.Renamed(), nil
}

func frozenNamed(name string) (Profile, bool) {
	for _, f := range frozen() {
		if f.Name == name {
			return f.Profile, true
		}
	}
	return Profile{}, false
}

// Renamed returns the profile under its true name, for a profile whose fields
// have been changed: a frozen name only if it is that profile.
func (p Profile) Renamed() Profile {
	if c, err := parseCutter(p.Chunker); err == nil {
		p.Chunker = c.spec
	}
	base, _, _ := strings.Cut(p.Name, "+")
	was, ok := frozenNamed(base)
	switch {
	case ok:
		p.Name = base
		old := was.parts()
		for i, part := range p.parts() {
			if part != old[i] {
				p.Name += "+" + part
			}
		}
	case p.Name == "" || strings.Contains(p.Name, "+"):
		p.Name = p.Fingerprint()
	}
	return p
}
