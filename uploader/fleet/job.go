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

// Version is the version of jobs. A worker leaves jobs of later versions to
// others, since they may have instructions that it does not understand.
const Version = 1

// Limits of a job, so that it fits into a message.
const (
	MaxFiles    = 1000
	MaxJobBytes = 192 << 10 // as JSON
	maxTargets  = 16
)

// Job is a list of files below one source root, with how to cut them and where
// to send them.
type Job struct {
	V      int      `json:"v"`
	Source string   `json:"source"` // name of the source root; each host knows its path there
	Files  []File   `json:"files"`
	Recipe Recipe   `json:"recipe,omitzero"`
	To     []string `json:"to,omitempty"` // names of targets, which hosts know; empty means the worker's own
}

// File is a file below a source root, as it was when it was submitted.
type File struct {
	Path  Path  `json:"path"`            // with slashes, below the root
	Bytes int64 `json:"bytes"`           // negative if unknown
	MTime int64 `json:"mtime,omitempty"` // nanoseconds since 1970; 0 if unknown
}

// Path is a path that may not be valid UTF-8.
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

// Recipe is the settings that affect the roots of files, or how they are
// verified. Empty fields use the settings of the worker's host.
type Recipe struct {
	Profile       string `json:"profile,omitempty"`
	Chunker       string `json:"chunker,omitempty"`
	MaxShardBytes int64  `json:"maxShardBytes,omitempty"`
	Verify        string `json:"verify,omitempty"`
}

// Names can't be mistaken for a flag or a path, and fit into a NATS subject.
var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	recipeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// ValidName reports whether s is a valid name for a source root, a host or a
// group.
func ValidName(s string) bool { return nameForm.MatchString(s) }

// ErrInvalid is wrapped by errors about invalid jobs.
var ErrInvalid = errors.New("invalid job")

// Validate checks a job from an untrusted origin.
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
		return bad("%d files: must be 1 to %d", len(j.Files), MaxFiles)
	case len(j.To) > maxTargets:
		return bad("%d targets: must be at most %d", len(j.To), maxTargets)
	case j.Recipe.MaxShardBytes < 0:
		return bad("shards of %d bytes: must not be negative", j.Recipe.MaxShardBytes)
	}
	for _, f := range j.Files {
		// A path outside the root would read files that nobody meant to send.
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
			return bad("recipe %q: use letters, digits, ., - and _", s)
		}
	}
	return nil
}

// ParseJob parses and validates a job from an untrusted origin.
func ParseJob(p []byte) (j Job, err error) {
	if len(p) > MaxJobBytes {
		return j, fmt.Errorf("%w: %d bytes: must be at most %d", ErrInvalid, len(p), MaxJobBytes)
	}
	if err := json.Unmarshal(p, &j); err != nil {
		return j, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return j, j.Validate()
}

// Bytes returns the total size of a job's files, as far as known.
func (j *Job) Bytes() (n int64) {
	for _, f := range j.Files {
		n += max(f.Bytes, 0)
	}
	return n
}

// ID identifies a job. Jobs with the same files, settings and targets have the
// same ID.
type ID string

// ID returns the ID of the job.
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

// ValidID reports whether s has the form of an ID.
func ValidID(s string) bool { return idForm.MatchString(s) }

// Class names a set of targets. Workers claim jobs by class.
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

// Classes returns the classes of jobs that a worker with these targets can do:
// those for all of its targets, for any one of them, or for the worker's own.
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

// Batcher groups small files into jobs. Where a job ends depends only on nearby
// files: adding a file changes the jobs around it, and no others. For this, the
// files must always come in the same order.
type Batcher struct {
	Job   Job   // everything but the files
	Bytes int64 // approximate size of a job; 0 means DefaultBatchBytes
	Files int   // approximate number of files in a job; 0 means DefaultBatchFiles

	files []File
	size  int64
	json  int
}

// Defaults of [Batcher]. A petabyte of small files makes a million jobs.
const (
	DefaultBatchBytes = 1 << 30
	DefaultBatchFiles = 256
)

// Add adds a file and returns the jobs that it completes.
func (b *Batcher) Add(f File) []Job {
	most, files := b.limits()
	var done []Job
	if f.Bytes < 0 || f.Bytes >= most/4 { // it gets a job of its own
		j := b.Job
		j.V, j.Files = Version, []File{f}
		return append(b.Flush(), j)
	}
	cost := 6*len(f.Path) + 80 // upper limit, as JSON
	if len(b.files) > 0 && (b.json+cost > MaxJobBytes/2 || b.size+f.Bytes > 2*most) {
		done = b.Flush()
	}
	b.files = append(b.files, f)
	b.size += f.Bytes
	b.json += cost
	// A job ends at a file whose hashed path says so. The fraction of such
	// files is chosen so that the average job has the right size.
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

// Flush returns the job with the remaining files, if there are any.
func (b *Batcher) Flush() []Job {
	if len(b.files) == 0 {
		return nil
	}
	j := b.Job
	j.V, j.Files = Version, b.files
	b.files, b.size, b.json = nil, 0, 0
	return []Job{j}
}
