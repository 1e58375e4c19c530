// Command ranges measures how long it takes to read random ranges of a file
// over HTTP, from several servers in turn, so that they can be compared within
// one run.
//
//	go run ./bench/ranges -n 2000 -size 65536 http://127.0.0.1:5080/ipfs/ROOT http://127.0.0.1:8080/ipfs/ROOT
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"time"
)

func main() {
	n := flag.Int("n", 2000, "ranges of each")
	size := flag.Int64("size", 64<<10, "bytes of a range")
	seed := flag.Uint64("seed", 1, "which ranges")
	flag.Parse()
	if err := run(context.Background(), flag.Args(), *n, *size, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "ranges:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, urls []string, n int, size int64, seed uint64) error {
	if len(urls) == 0 || n < 1 {
		return fmt.Errorf("give the URLs of a file, and a number of ranges")
	}
	length := int64(-1)
	for _, u := range urls {
		req, err := http.NewRequestWithContext(ctx, http.MethodHead, u, nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if length >= 0 && res.ContentLength != length || res.ContentLength < size {
			return fmt.Errorf("%s has %d bytes, status %s", u, res.ContentLength, res.Status)
		}
		length = res.ContentLength
	}
	took := make([][]time.Duration, len(urls))
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // which bytes are read is no secret
	for range n {
		from := random.Int64N(length - size + 1)
		for i, u := range urls {
			start := time.Now()
			if err := get(ctx, u, from, size); err != nil {
				return fmt.Errorf("%s: %w", u, err)
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	for i, u := range urls {
		slices.Sort(took[i])
		at := func(p float64) time.Duration {
			return took[i][min(int(p*float64(n)), n-1)].Round(time.Microsecond)
		}
		fmt.Printf("%s\tp50 %v\tp90 %v\tp99 %v\tmost %v\n", u, at(.5), at(.9), at(.99), took[i][n-1].Round(time.Microsecond))
	}
	return nil
}

func get(ctx context.Context, url string, from, size int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+size-1))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.Copy(io.Discard, res.Body)
	if err == nil && (got != size || res.StatusCode != http.StatusPartialContent) {
		err = fmt.Errorf("%d bytes, status %s", got, res.Status)
	}
	return err
}
