package store

import (
	"errors"
	"os"
	"sync"

	"github.com/ipfs/go-cid"
)

// maxOpenFiles is how many shard files are kept open that nobody reads.
const maxOpenFiles = 64

// openFiles keeps shard files open, for the next block is often in the same.
// What a name stands for never changes but for damage, so an open file is as
// good as its name until it is dropped.
type openFiles struct {
	mu    sync.Mutex
	files map[cid.Cid]*openFile // guarded by mu
	clock int64                 // guarded by mu
}

// openFile is a shard file. All but f is guarded by the mutex of its openFiles.
type openFile struct {
	f       *os.File
	readers int
	used    int64
	dropped bool
}

// get opens a file or returns the one that is open. The caller puts it back.
func (o *openFiles) get(c cid.Cid, path string) (*openFile, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	if of := o.files[c]; of != nil {
		of.readers++
		of.used = o.clock
		return of, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	o.evict()
	of := &openFile{f: f, readers: 1, used: o.clock}
	if o.files == nil {
		o.files = make(map[cid.Cid]*openFile)
	}
	o.files[c] = of
	return of, nil
}

// evict closes the file that was idle longest, if there are many.
func (o *openFiles) evict() {
	if len(o.files) < maxOpenFiles {
		return
	}
	var oldest cid.Cid
	used := o.clock
	for c, of := range o.files {
		if of.readers == 0 && of.used < used {
			oldest, used = c, of.used
		}
	}
	if of := o.files[oldest]; of != nil {
		delete(o.files, oldest)
		_ = of.f.Close() // it was only read
	}
}

func (o *openFiles) put(of *openFile) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if of.readers--; of.readers == 0 && of.dropped {
		_ = of.f.Close() // it was only read
	}
}

// drop forgets a file: another has its name, or none.
func (o *openFiles) drop(c cid.Cid) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.forget(c)
}

func (o *openFiles) forget(c cid.Cid) error {
	of := o.files[c]
	if of == nil {
		return nil
	}
	delete(o.files, c)
	if of.dropped = true; of.readers > 0 {
		return nil
	}
	return of.f.Close()
}

func (o *openFiles) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var err error
	for c := range o.files {
		err = errors.Join(err, o.forget(c))
	}
	return err
}
