// Command carload-fleet shares the work on one list of files among many hosts,
// through a queue on NATS JetStream. "carload fleet" runs it.
package main

import (
	"context"
	"os"

	"github.com/carload/carload/uploader/fleet/cmd/carload-fleet/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Environ()))
}
