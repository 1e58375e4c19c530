package store

import (
	"errors"
	"os"
	"sync"

	"github.com/ipfs/go-cid"
)

// maxOpenFiles is how many shard files are kept open although nobody reads
// them.
const maxOpenFiles = 64

// openFiles keeps shard files open, since the next block is often in the same
// file. Barring damage, the contents behind a name never change. So an open
// file is as good as its name until it is dropped.
type openFiles struct {
	mu    sync.Mutex
	files map[cid.Cid]*openFile // guarded by mu
	clock int64                 // guarded by mu
}

// openFile is a shard file. All fields but f are guarded by the mutex of
// openFiles.
type openFile struct {
	f       *os.File
	readers int
	used    int64
	dropped bool
}

// get returns an open file. The caller must call put.
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

// evict closes the file that has been idle longest, if there are many.
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

// drop forgets a file, because its name was removed or now belongs to another
// file.
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
