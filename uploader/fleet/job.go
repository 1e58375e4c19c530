package fleet

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Version is that of jobs. A worker leaves jobs of later versions to others:
// they may say how something is to be sent that it does not understand.
const Version = 1

// Bounds of a job, so that it fits a message however it came about.
const (
	MaxFiles    = 1000
	MaxJobBytes = 192 << 10 // as JSON
	maxTargets  = 16
)

// Job is files below one source root, how they are to be cut, and where they
// are to go.
type Job struct {
	V      int      `json:"v"`
	Source string   `json:"source"` // name of the source root, which hosts map to where they have it
	Files  []File   `json:"files"`
	Recipe Recipe   `json:"recipe,omitzero"`
	To     []string `json:"to,omitempty"` // names of targets, which hosts know; empty for those of the worker
}

// File is a file below a source root, as it was when it was submitted.
type File struct {
	Path  Path  `json:"path"`            // with slashes, below the root
	Bytes int64 `json:"bytes"`           // negative if that is not known
	MTime int64 `json:"mtime,omitempty"` // nanoseconds since 1970; 0 if that is not known
}

// Path is a path that may be no text.
type Path string

// MarshalJSON implements [json.Marshaler].
func (p Path) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(p)) {
		return json.Marshal(string(p))
	}
	return json.Marshal(map[string][]byte{"raw": []byte(p)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (p *Path) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var raw struct {
			Raw []byte `json:"raw"`
		}
		err := json.Unmarshal(b, &raw)
		*p = Path(raw.Raw)
		return err
	}
	return json.Unmarshal(b, (*string)(p))
}

// Recipe is what changes the roots of files, or how they are checked. What is
// empty is as the worker's host has it set.
type Recipe struct {
	Profile       string `json:"profile,omitempty"`
	Chunker       string `json:"chunker,omitempty"`
	MaxShardBytes int64  `json:"maxShardBytes,omitempty"`
	Verify        string `json:"verify,omitempty"`
}

// Names are what can't be taken for a flag, a path or a subject of a queue.
var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	recipeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// ValidName tells whether a source root, a host or a group can be called this.
func ValidName(s string) bool { return nameForm.MatchString(s) }

// ErrInvalid is matched by errors of jobs that nobody can work on.
var ErrInvalid = errors.New("invalid job")

// Validate checks a job that came from anybody.
func (j *Job) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
	}
	switch {
	case j.V < 1:
		return bad("it has no version")
	case !ValidName(j.Source):
		return bad("a source root can't be called %q: use letters, digits, - and _", j.Source)
	case len(j.Files) == 0 || len(j.Files) > MaxFiles:
		return bad("%d files, there can be 1 to %d", len(j.Files), MaxFiles)
	case len(j.To) > maxTargets:
		return bad("%d targets, there can be %d", len(j.To), maxTargets)
	case j.Recipe.MaxShardBytes < 0:
		return bad("shards of %d bytes", j.Recipe.MaxShardBytes)
	}
	for _, f := range j.Files {
		// A path that leaves the root would read what nobody meant to send.
		if p := string(f.Path); p == "" || strings.ContainsRune(p, 0) || path.Clean(p) != p || path.IsAbs(p) || p == ".." || strings.HasPrefix(p, "../") {
			return bad("the path %q is not below a source root", p)
		}
	}
	for _, to := range j.To {
		if !nameForm.MatchString(to) {
			return bad("a target can't be called %q", to)
		}
	}
	for _, s := range []string{j.Recipe.Profile, j.Recipe.Chunker, j.Recipe.Verify} {
		if s != "" && !recipeForm.MatchString(s) {
			return bad("the recipe %q", s)
		}
	}
	return nil
}

// ParseJob reads a job that came from anybody.
func ParseJob(p []byte) (j Job, err error) {
	if len(p) > MaxJobBytes {
		return j, fmt.Errorf("%w: %d bytes, there can be %d", ErrInvalid, len(p), MaxJobBytes)
	}
	if err := json.Unmarshal(p, &j); err != nil {
		return j, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return j, j.Validate()
}

// Bytes is the size of all files of a job, as far as it is known.
func (j *Job) Bytes() (n int64) {
	for _, f := range j.Files {
		n += max(f.Bytes, 0)
	}
	return n
}

// ID names a job: the same files as they are, in the same way to the same
// places, are the same job.
type ID string

// ID is the name of the job.
func (j *Job) ID() ID {
	h := sha256.New()
	add := func(s string) {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(s))))
		_, _ = h.Write([]byte(s))
	}
	add(j.Source)
	for _, f := range j.Files {
		add(string(f.Path))
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(f.Bytes)))
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(f.MTime)))
	}
	add("recipe")
	add(j.Recipe.Profile)
	add(j.Recipe.Chunker)
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(j.Recipe.MaxShardBytes)))
	add(j.Recipe.Verify)
	for _, to := range slices.Sorted(slices.Values(j.To)) {
		add(to)
	}
	return ID(hex.EncodeToString(h.Sum(nil)[:16]))
}

var idForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// ValidID tells whether a text can be the name of a job.
func ValidID(s string) bool { return idForm.MatchString(s) }

// Class is which targets a job is for, as a word: workers claim by it.
func Class(to []string) string {
	switch len(to) {
	case 0:
		return "any"
	case 1:
		return "to-" + to[0]
	}
	h := sha256.New()
	for _, s := range slices.Sorted(slices.Values(to)) {
		_, _ = h.Write([]byte(s + "\x00"))
	}
	return "set-" + hex.EncodeToString(h.Sum(nil)[:8])
}

// Classes are those of the jobs that a worker with these targets can do: all of
// its targets, each one, or whatever it sends to.
func Classes(to []string) []string {
	list := []string{Class(nil)}
	for _, t := range to {
		list = append(list, Class([]string{t}))
	}
	if len(to) > 1 {
		list = append(list, Class(to))
	}
	return list
}

// Batcher gathers small files into jobs. Where a job ends depends on the files
// near by and not on how many came before: a file that was added changes the
// jobs around it, and the others stay what they are. For that the files have to
// come in the same order each time.
type Batcher struct {
	Job   Job   // all but the files
	Bytes int64 // about how large a job is; 0 means DefaultBatchBytes
	Files int   // about how many files there are in one; 0 means DefaultBatchFiles

	files []File
	size  int64
	json  int
}

// Defaults of [Batcher]. A petabyte of small files is a million jobs.
const (
	DefaultBatchBytes = 1 << 30
	DefaultBatchFiles = 256
)

// Add takes a file, and returns the jobs that it completes.
func (b *Batcher) Add(f File) []Job {
	most, files := b.limits()
	var done []Job
	if f.Bytes < 0 || f.Bytes >= most/4 { // it is a job of its own
		j := b.Job
		j.V, j.Files = Version, []File{f}
		return append(b.Flush(), j)
	}
	cost := 6*len(f.Path) + 80 // at most, as JSON
	if len(b.files) > 0 && (b.json+cost > MaxJobBytes/2 || b.size+f.Bytes > 2*most) {
		done = b.Flush()
	}
	b.files = append(b.files, f)
	b.size += f.Bytes
	b.json += cost
	// A job ends at a file whose name says so: one in a few, so that the mean is
	// what was asked for.
	sum := sha256.Sum256([]byte(f.Path))
	share := uint64(max(1, files/2))
	if b.size > 0 && most > 0 {
		mean := max(1, b.size/int64(len(b.files)))
		share = min(share, uint64(max(1, most/2/mean)))
	}
	switch n := len(b.files); {
	case n >= 2*files || n >= MaxFiles || b.size >= 2*most:
		return append(done, b.Flush()...)
	case (n >= files/2 || b.size >= most/2) && binary.BigEndian.Uint64(sum[:])%share == 0:
		return append(done, b.Flush()...)
	}
	return done
}

func (b *Batcher) limits() (bytes int64, files int) {
	bytes, files = b.Bytes, b.Files
	if bytes <= 0 {
		bytes = DefaultBatchBytes
	}
	if files <= 0 {
		files = DefaultBatchFiles
	}
	return bytes, min(files, MaxFiles)
}

// Flush returns the job of the files that are left, if there are any.
func (b *Batcher) Flush() []Job {
	if len(b.files) == 0 {
		return nil
	}
	j := b.Job
	j.V, j.Files = Version, b.files
	b.files, b.size, b.json = nil, 0, 0
	return []Job{j}
}
