package bench

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/car/piece"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/nftstorage"
)

// Stages returns everything that can be timed. Baselines come before the stages
// that are compared with them.
func Stages() []Stage {
	return []Stage{
		{Name: "read", What: "read the file on all cores, 1 MiB at a time", Run: readFile},
		{Name: "sha256", What: "crypto/sha256 of each MiB, on all cores", Against: []string{"read"}, Run: plainSHA256},
		{Name: "describe", What: "root CID, unixfs-v1-2025", Against: []string{"sha256", "boxo-import"}, Agrees: "v1", Run: describe(chunker.UnixFSv1())},
		{Name: "describe-256k", What: "root CID, 256 KiB chunks", Against: []string{"describe"}, Run: describe(chunks256k())},
		{Name: "boxo-import", What: "root CID by boxo's importer", Agrees: "v1", Run: boxoImport},
		{Name: "piece", What: "Filecoin piece CID of the file", Against: []string{"sha256"}, Run: pieceCID},
		{Name: "archive", What: "both passes, all shards read and discarded", Against: []string{"sha256", "go-car"}, Agrees: "v1", Run: archive},
		{Name: "go-car", What: "CAR of the blocks by go-car's writer, discarded", Run: goCarWrite},
		{Name: "cp", What: "copy the file", Run: copyFile(false)},
		{Name: "pack", What: "both passes, shards written to disk", Against: []string{"cp"}, Agrees: "v1", Run: pack(dirtarget.Options{NoSync: true}, uploader.Options{})},
		{Name: "pack-pieces", What: "the same as pack, with piece CIDs", Against: []string{"pack"}, Agrees: "v1", Run: pack(dirtarget.Options{NoSync: true}, uploader.Options{PieceCIDs: true})},
		{Name: "cp-sync", What: "copy the file and sync it", Run: copyFile(true)},
		{Name: "pack-sync", What: "the same as pack, each shard synced", Against: []string{"cp-sync"}, Agrees: "v1", Run: pack(dirtarget.Options{}, uploader.Options{})},
		{Name: "put", What: "bare HTTP PUT to a draining server", Against: []string{"read"}, Run: barePut},
		{Name: "send", What: "both passes, shards sent to a draining server", Against: []string{"put"}, Agrees: "v1", Run: send},
		{Name: "up", What: "both passes into the service: checked, stored, complete", Against: []string{"cp-sync"}, Agrees: "v1", Service: true, Run: up},
	}
}

func chunks256k() chunker.Profile {
	p := chunker.UnixFSv1()
	p.Name, p.ChunkBytes = "256 KiB chunks", 256<<10
	return p
}

// parallel hands out the file in pieces to several workers. Each worker has a
// buffer of its own.
func parallel(ctx context.Context, path string, workers, piece int, f func(p []byte, off int64) error) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	var next, total atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			buf := make([]byte, piece)
			for {
				off := (next.Add(1) - 1) * int64(piece)
				if off >= size || ctx.Err() != nil {
					return ctx.Err()
				}
				n, err := file.ReadAt(buf[:min(int64(piece), size-off)], off)
				if err != nil {
					return err
				}
				total.Add(int64(n))
				if err := f(buf[:n], off); err != nil {
					return err
				}
			}
		})
	}
	err = g.Wait()
	if err == nil && total.Load() != size {
		err = fmt.Errorf("%d bytes were handled, but the file has %d", total.Load(), size)
	}
	return size, err
}

func readFile(ctx context.Context, j Job) (Outcome, error) {
	n, err := parallel(ctx, j.Path, runtime.GOMAXPROCS(0), 1<<20, func([]byte, int64) error { return nil })
	return Outcome{Bytes: n}, err
}

func plainSHA256(ctx context.Context, j Job) (Outcome, error) {
	var seen atomic.Int64
	n, err := parallel(ctx, j.Path, runtime.GOMAXPROCS(0), 1<<20, func(p []byte, _ int64) error {
		if sha256.Sum256(p) != [32]byte{} {
			seen.Add(int64(len(p)))
		}
		return nil
	})
	if err == nil && seen.Load() != n {
		err = fmt.Errorf("%d of %d bytes were hashed", seen.Load(), n)
	}
	return Outcome{Bytes: n}, err
}

func describe(p chunker.Profile) func(context.Context, Job) (Outcome, error) {
	return func(ctx context.Context, j Job) (Outcome, error) {
		d, err := build(ctx, j.Path, p)
		if err != nil {
			return Outcome{}, err
		}
		return Outcome{Bytes: d.Size(), Root: d.Root().String()}, nil
	}
}

func build(ctx context.Context, path string, p chunker.Profile) (*chunker.DAG, error) {
	src, err := chunker.OpenFile(path)
	if err != nil {
		return nil, err
	}
	return chunker.Build(ctx, src, chunker.Options{Profile: p})
}

// pieceCID uses one hasher, which keeps all cores busy.
func pieceCID(_ context.Context, j Job) (Outcome, error) {
	f, err := os.Open(j.Path)
	if err != nil {
		return Outcome{}, err
	}
	defer f.Close()
	var pool piece.Pool
	p, err := pool.Read(f)
	return Outcome{Bytes: p.RawSize}, err
}

func archive(ctx context.Context, j Job) (Outcome, error) {
	d, err := build(ctx, j.Path, chunker.Profile{})
	if err != nil {
		return Outcome{}, err
	}
	plan, err := splitter.Split(d, splitter.Options{})
	if err != nil {
		return Outcome{}, err
	}
	var packer car.Packer
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(j.Transfers)
	for i := range plan.Shards {
		g.Go(func() error {
			s := packer.Open(ctx, plan.Archive(i))
			defer s.Close()
			n, err := s.WriteTo(struct{ io.Writer }{io.Discard})
			if err == nil && n != plan.Shards[i].Size {
				err = fmt.Errorf("shard %d has %d bytes, not %d", i, n, plan.Shards[i].Size)
			}
			return err
		})
	}
	return Outcome{Bytes: d.Size(), Root: d.Root().String()}, g.Wait()
}

// copyFile copies the file as cp does.
func copyFile(sync bool) func(context.Context, Job) (Outcome, error) {
	return func(_ context.Context, j Job) (Outcome, error) {
		in, err := os.Open(j.Path)
		if err != nil {
			return Outcome{}, err
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(j.Dir, "copy"))
		if err != nil {
			return Outcome{}, err
		}
		defer out.Close()
		n, err := io.Copy(out, in)
		if err == nil && sync {
			err = out.Sync()
		}
		if err != nil {
			return Outcome{}, err
		}
		return Outcome{Bytes: n}, out.Close()
	}
}

func pack(to dirtarget.Options, opts uploader.Options) func(context.Context, Job) (Outcome, error) {
	return func(ctx context.Context, j Job) (Outcome, error) {
		t, err := dirtarget.New(j.Dir, to)
		if err != nil {
			return Outcome{}, err
		}
		o, err := upload(ctx, j, t, opts)
		if err != nil {
			return o, err
		}
		return o, checkShards(j.Dir, o)
	}
}

// checkShards checks that the sizes of the files in a directory add up.
func checkShards(dir string, o Outcome) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.car"))
	if err != nil {
		return err
	}
	var total int64
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return err
		}
		total += info.Size()
	}
	if total < o.Bytes {
		return fmt.Errorf("the shards have %d bytes, but the file has %d", total, o.Bytes)
	}
	return nil
}

// upload runs the engine on the file.
func upload(ctx context.Context, j Job, t uploader.Target, opts uploader.Options) (Outcome, error) {
	opts.Transfers, opts.MaxUploadBytes = j.Transfers, -1
	u, err := uploader.New(t, opts)
	if err != nil {
		return Outcome{}, err
	}
	in, err := uploader.File(j.Path, chunker.Options{})
	if err != nil {
		return Outcome{}, err
	}
	for r, err := range u.Upload(ctx, slices.Values([]uploader.Input{in})) {
		return Outcome{Bytes: r.Bytes, Root: r.Root.String()}, err
	}
	return Outcome{}, fmt.Errorf("no result for %q", j.Path)
}

func barePut(ctx context.Context, j Job) (Outcome, error) {
	info, err := os.Stat(j.Path)
	if err != nil {
		return Outcome{}, err
	}
	client := bulkClient()
	defer client.CloseIdleConnections()
	size := info.Size()
	part := (size + int64(j.Transfers) - 1) / int64(j.Transfers)
	g, ctx := errgroup.WithContext(ctx)
	for i := range int64(j.Transfers) {
		g.Go(func() error {
			f, err := os.Open(j.Path)
			if err != nil {
				return err
			}
			defer f.Close()
			from, to := min(i*part, size), min((i+1)*part, size)
			// Copy 1 MiB at a time straight to the socket: as little work as a
			// client can do that holds the bytes in memory.
			body := bufio.NewReaderSize(struct{ io.Reader }{io.NewSectionReader(f, from, to-from)}, 1<<20)
			return put(ctx, client, j.SinkURL, body, to-from)
		})
	}
	return Outcome{Bytes: size}, g.Wait()
}

func send(ctx context.Context, j Job) (Outcome, error) {
	client := bulkClient()
	defer client.CloseIdleConnections()
	return upload(ctx, j, sinkTarget{j.SinkURL, client}, uploader.Options{})
}

func up(ctx context.Context, j Job) (Outcome, error) {
	token, err := nftstorage.NewToken(j.Token)
	if err != nil {
		return Outcome{}, err
	}
	t, err := nftstorage.New(nftstorage.Options{Endpoint: j.Endpoint, Token: token})
	if err != nil {
		return Outcome{}, err
	}
	defer t.Close()
	return upload(ctx, j, t, uploader.Options{})
}
