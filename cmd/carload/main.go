// Command carload uploads large files to content-addressed storage. It cuts
// them into shards that fit one request, sends the shards in parallel, and
// verifies that the target has everything.
package main

import (
	"context"
	"os"

	"github.com/carload/carload/cmd/carload/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Environ()))
}
