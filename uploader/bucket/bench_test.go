package bucket_test

import (
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/targettest"
)

var benchBytes = flag.Int64("bench.bytes", 1<<30, "size of the benchmark's file")

// BenchmarkUpload uploads a file to a real server with the engine. For
// comparison, it sends the same shards, as existing files, with the SDK's
// parallel puts and known digests.
func BenchmarkUpload(b *testing.B) {
	size := *benchBytes
	s := targettest.StartS3(b)
	path := filepath.Join(b.TempDir(), "film.bin")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{5}), size); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	send := func(target uploader.Target) {
		u, err := uploader.New(target, uploader.Options{})
		if err != nil {
			b.Fatal(err)
		}
		in, err := uploader.File(path, chunker.Options{})
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range u.Upload(b.Context(), slices.Values([]uploader.Input{in})) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	dir := b.TempDir()
	shards, err := dirtarget.New(dir, dirtarget.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	send(shards)
	empty := func() {
		b.StopTimer()
		for _, name := range []string{"my", "sdk"} {
			if err := os.RemoveAll(filepath.Join(s.Dir, name)); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
	b.Run("carload", func(b *testing.B) {
		b.SetBytes(size)
		for range b.N {
			empty()
			send(open(b, s, s.URL, s.Secret))
		}
	})
	b.Run("sdk", func(b *testing.B) {
		b.SetBytes(size)
		client := s3.NewFromConfig(aws.Config{Region: "us-east-1", BaseEndpoint: &s.URL, Credentials: credentials.NewStaticCredentialsProvider(s.Access, s.Secret, "")}, func(o *s3.Options) { o.UsePathStyle = true })
		files, err := filepath.Glob(filepath.Join(dir, "*.car"))
		if err != nil || len(files) == 0 {
			b.Fatal(files, err)
		}
		for range b.N {
			empty()
			var g errgroup.Group
			g.SetLimit(uploader.DefaultTransfers)
			for _, name := range files {
				g.Go(func() error {
					f, err := os.Open(name)
					if err != nil {
						return err
					}
					defer f.Close()
					h := sha256.New()
					if _, err := io.Copy(h, f); err != nil {
						return err
					}
					if _, err := f.Seek(0, io.SeekStart); err != nil {
						return err
					}
					key, digest := "sdk/"+filepath.Base(name), base64.StdEncoding.EncodeToString(h.Sum(nil))
					_, err = client.PutObject(b.Context(), &s3.PutObjectInput{Bucket: &s.Bucket, Key: &key, Body: f, ChecksumSHA256: &digest, IfNoneMatch: aws.String("*")})
					return err
				})
			}
			if err := g.Wait(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
