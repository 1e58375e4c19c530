// Command carload moves big files into content-addressed storage: it cuts them
// into shards that fit a request, sends the shards in parallel, and verifies
// that the far side holds what was sent.
package main

import (
	"context"
	"os"

	"github.com/carload/carload/cmd/carload/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Environ()))
}
