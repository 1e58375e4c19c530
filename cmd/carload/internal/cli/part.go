package cli

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxParts is more than the hosts that anybody would use.
const maxParts = 1 << 20

// part is the flag --part: which inputs this run takes when several runs divide
// them. "3/16" is the third of sixteen parts. "auto/16" and "auto" take the
// number from the array job. The zero value takes everything.
type part struct {
	text  string
	index int // from 0; negative until resolve
	count int // 0 for no division, or unknown until resolve
}

// Set implements pflag.Value.
func (p *part) Set(s string) error {
	*p = part{text: s, index: -1}
	which, of, divided := strings.Cut(s, "/")
	var err error
	if divided {
		p.count, err = strconv.Atoi(of)
	}
	if which != "auto" && err == nil {
		p.index, err = strconv.Atoi(which)
		p.index-- // people count from 1
	}
	switch {
	case err != nil, divided && (p.count < 1 || p.count > maxParts), which != "auto" && (!divided || p.index < 0 || p.index >= p.count):
		return fmt.Errorf("part %q: use K/N with K from 1 to N, such as 3/16, or auto/N or auto in an array job", s)
	}
	return nil
}

// String implements pflag.Value.
func (p *part) String() string { return p.text }

// Type implements pflag.Value.
func (p *part) Type() string { return "part" }

// resolve finds the number for "auto": that of the pod of an indexed Kubernetes
// job, or of the task of a Slurm array.
func (p *part) resolve(env environment) error {
	if p.text == "" || p.index >= 0 {
		return nil
	}
	number := func(name string, def int) (int, error) {
		if env[name] == "" {
			return def, nil
		}
		n, err := strconv.Atoi(env[name])
		if err != nil || n < 0 {
			return 0, fmt.Errorf("--part %s: the variable %s is %q, which is not a number", p.text, name, env[name])
		}
		return n, nil
	}
	var first, step, count int
	var err error
	switch {
	case env["JOB_COMPLETION_INDEX"] != "":
		p.index, err = number("JOB_COMPLETION_INDEX", 0)
	case env["SLURM_ARRAY_TASK_ID"] != "":
		if p.index, err = number("SLURM_ARRAY_TASK_ID", 0); err != nil {
			return err
		}
		if first, err = number("SLURM_ARRAY_TASK_MIN", 0); err != nil {
			return err
		}
		if step, err = number("SLURM_ARRAY_TASK_STEP", 1); err != nil {
			return err
		}
		if count, err = number("SLURM_ARRAY_TASK_COUNT", 0); err != nil {
			return err
		}
		p.index = (p.index - first) / max(step, 1)
		if p.count == 0 {
			p.count = count
		}
	default:
		return fmt.Errorf("--part %s: neither JOB_COMPLETION_INDEX nor SLURM_ARRAY_TASK_ID is set: say which part this is, such as --part 3/16", p.text)
	}
	if err != nil {
		return err
	}
	if p.count == 0 {
		return fmt.Errorf("--part %s: say how many parts there are, such as --part auto/16", p.text)
	}
	if p.index < 0 || p.index >= p.count {
		return fmt.Errorf("--part %s: this is task %d of an array (counted from 0), and there are %d parts", p.text, p.index, p.count)
	}
	return nil
}

// takes reports whether a path belongs to this part. It uses a hash of the path
// as given, so all runs agree without asking one another.
func (p *part) takes(path string) bool {
	if p.count <= 1 {
		return true
	}
	sum := sha256.Sum256([]byte(filepath.ToSlash(filepath.Clean(path))))
	return binary.BigEndian.Uint64(sum[:])%uint64(p.count) == uint64(p.index) //nolint:gosec // neither is negative
}

// share is the flag --rate-share: the part of a token's rate that this run
// uses, when several hosts use the token. The zero value uses all of it. After
// an @, the flag names a file with the part, which may change during the run.
type share struct {
	text     string
	num, den int
	file     string
}

// Set implements pflag.Value.
func (s *share) Set(text string) error {
	*s = share{text: text}
	if file, ok := strings.CutPrefix(text, "@"); ok && file != "" {
		s.file = file
		return nil
	}
	return s.parse(text, 1)
}

func (s *share) parse(text string, least int) error {
	num, den, ok := strings.Cut(text, "/")
	var err error
	if s.num, err = strconv.Atoi(num); err == nil && ok {
		s.den, err = strconv.Atoi(den)
	}
	if err != nil || !ok || s.num < least || s.den < max(s.num, 1) || s.den > maxParts {
		return fmt.Errorf("share %q: use a fraction of at most 1, such as 1/16", text)
	}
	return nil
}

// String implements pflag.Value.
func (s *share) String() string { return s.text }

// Type implements pflag.Value.
func (s *share) Type() string { return "fraction" }

// of returns the share of a number of requests, rounded down: all hosts
// together must not exceed the number in any window.
func (s *share) of(requests int) (int, error) {
	if s.den == 0 {
		return requests, nil
	}
	n := requests * s.num / s.den
	if n == 0 {
		return 0, fmt.Errorf("--rate-share %s of %d requests is less than one: use fewer hosts per token, or a token for each", s.text, requests)
	}
	return n, nil
}

// maxShareBytes is more than any fraction needs.
const maxShareBytes = 64

// now returns the share of a number of requests in a window that the file has
// now. 0/1 means none for now. If the share is less than one request, now
// returns one request in a longer window.
func (s *share) now(requests int, window time.Duration) (int, time.Duration, error) {
	p, _, err := readSmall(s.file, maxShareBytes)
	if err != nil {
		return 0, 0, err
	}
	var now share
	if err := now.parse(strings.TrimSpace(string(p)), 0); err != nil {
		return 0, 0, fmt.Errorf("%q: %w", s.file, err)
	}
	n := requests * now.num
	switch {
	case n == 0:
		return 0, window, nil
	case n < now.den:
		return 1, window * time.Duration(now.den) / time.Duration(n), nil
	}
	return n / now.den, window, nil
}
