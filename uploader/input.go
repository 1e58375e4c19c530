package uploader

import (
	"context"
	"sync/atomic"

	"github.com/carload/carload/chunker"
)

// File is an [Input] of one regular file.
func File(path string, opts chunker.Options) (Input, error) {
	src, err := chunker.OpenFile(path)
	if err != nil {
		return nil, err
	}
	return &fileInput{src, opts}, nil
}

type fileInput struct {
	src  *chunker.FileSource
	opts chunker.Options
}

func (f *fileInput) Name() string { return f.src.Name() }
func (f *fileInput) Size() int64  { return f.src.Size() }
func (f *fileInput) Close() error { return nil }

func (f *fileInput) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	opts := f.opts
	opts.Read = read
	return chunker.Build(ctx, f.src, opts)
}
