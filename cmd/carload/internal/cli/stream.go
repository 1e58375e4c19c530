package cli

import (
	"context"
	"io"
	"io/fs"
	"os"
	"time"
)

// stream is a file to read once.
type stream struct {
	io.Reader
	io.Closer
	regular *os.File // if it can be read again
}

// openStream opens a file that may be a pipe; - is standard input. Opening and
// reading it end when the command must stop.
func (a *app) openStream(name string) (*stream, error) {
	if name == "-" {
		return &stream{a.stdin(), io.NopCloser(nil), nil}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	f, err := a.openPatiently(name, info)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() {
		return &stream{f, f, f}, nil
	}
	return &stream{interruptible(a.life.soft, f), f, nil}, nil
}

// sayAfter is how long opening a FIFO may take without a word.
const sayAfter = time.Second

// openPatiently opens a file. It says so if nobody has opened a FIFO for
// writing yet.
func (a *app) openPatiently(name string, info fs.FileInfo) (*os.File, error) {
	if info.Mode()&fs.ModeNamedPipe == 0 {
		return os.Open(name)
	}
	type result struct {
		*os.File
		error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.Open(name)
		opened <- result{f, err}
	}()
	timer := time.NewTimer(sayAfter)
	defer timer.Stop()
	for {
		select {
		case r := <-opened:
			return r.File, r.error
		case <-timer.C:
			a.con.say("waiting for a program that writes to %s", quotePath(name))
		case <-a.life.soft.Done(): // the end of the process ends the goroutine
			return nil, context.Cause(a.life.soft)
		}
	}
}
