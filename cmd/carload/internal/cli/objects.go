package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/bucket"
)

// objectScheme begins the URL of an object in a bucket, or of a prefix.
const objectScheme = "s3://"

// objectReaders is the number of goroutines that read objects, which wait more
// than they compute. Each one reads elsewhere in an object, and the object
// buffers for all of them.
const objectReaders = 8

// objectStall is how long a request for an object may move no bytes.
const objectStall = time.Minute

// bucket returns the bucket with this name. If a target of the configuration is
// in it, it uses the settings of that target, otherwise those of the
// environment.
func (s *inputs) bucket(ctx context.Context, name string) (*bucket.Target, error) {
	if t := s.buckets[name]; t != nil {
		return t.Target.(*bucket.Target), nil
	}
	c := targetConfig{Type: kindBucket}
	for _, known := range s.app.settings.targets {
		at, _, _ := strings.Cut(strings.TrimPrefix(known.URL, objectScheme), "/")
		if known.Type == kindBucket && at == name {
			c = known
		}
	}
	c.URL, c.Import = objectScheme+name, false
	t, err := s.app.openBucket(ctx, endpointFlags{stall: objectStall, caCert: c.CACert}, c)
	if err != nil {
		return nil, err
	}
	if s.buckets == nil {
		s.buckets = map[string]*target{}
	}
	s.buckets[name] = t
	return t.Target.(*bucket.Target), nil
}

// close closes what inputs were read from.
func (s *inputs) close() error {
	var errs []error
	for _, t := range s.buckets {
		errs = append(errs, t.close())
	}
	return errors.Join(errs...)
}

// object finds the object at a URL.
func (s *inputs) object(url string) (*bucket.Object, error) {
	name, key, _ := strings.Cut(strings.TrimPrefix(url, objectScheme), "/")
	b, err := s.bucket(s.app.life.hard, name)
	if err != nil {
		return nil, err
	}
	return b.Object(s.app.life.hard, key)
}

// openObject makes the input for a URL: an object, or, as a directory, all
// objects whose keys begin with it and a slash.
func (s *inputs) openObject(url string) (uploader.Input, error) {
	opts := s.options
	if s.flags.hashers == 0 {
		opts.Workers = objectReaders
	}
	name, prefix, _ := strings.Cut(strings.TrimPrefix(url, objectScheme), "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		o, err := s.object(url)
		if err == nil {
			return uploader.Source(o, opts), nil
		}
		if !errors.Is(err, uploader.ErrNotFound) {
			return nil, err
		}
		prefix += "/"
	}
	b, err := s.bucket(s.app.life.hard, name)
	if err != nil {
		return nil, err
	}
	tree, n, err := s.objectTree(b, prefix)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fmt.Errorf("%q: there is no such object, and none below it", url)
	}
	treeOpts := s.tree(url)
	treeOpts.Workers = opts.Workers
	return warned{uploader.Tree(strings.TrimSuffix(url, "/"), tree, treeOpts), s.app.con}, nil
}

// objectTree makes a tree of all objects below a prefix, and returns how many
// there are.
func (s *inputs) objectTree(b *bucket.Target, prefix string) (*chunker.Tree, int, error) {
	wanted, err := s.options.Wanted()
	if err != nil {
		return nil, 0, err
	}
	tree := chunker.NewTree()
	n := 0
	for o, err := range b.Objects(s.app.life.hard, prefix) {
		if err != nil {
			return nil, 0, err
		}
		n++
		at, isFile := o.Below(prefix)
		size := o.Size()
		if !isFile {
			size = -1
		}
		if at == "" {
			continue
		}
		if !wanted(at, size, o.ModTime()) {
			s.filtered++
			continue
		}
		if path.Clean("/" + at)[1:] != at {
			err = fmt.Errorf("%q: the key is not a path: %w", o.Name(), chunker.ErrName)
		} else if isFile {
			stat := chunker.Stat{}
			if s.options.ModTime {
				stat.ModTime = o.ModTime()
			}
			err = tree.AddFile(at, o, stat)
		} else if !s.flags.noEmptyDirs {
			err = tree.AddDir(at, chunker.Stat{})
		}
		if err != nil {
			return nil, 0, err
		}
	}
	return tree, n, nil
}
