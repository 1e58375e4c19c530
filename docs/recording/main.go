//go:build linux

// Command recording makes the picture in the README of carload at work: it runs
// a session in a shell on a pseudo-terminal and writes an animated SVG.
//
//	go build -o /tmp/bin/carload ./cmd/carload
//	PATH=/tmp/bin:$PATH go run ./docs/recording > docs/terminal.svg
//
// It needs 2 GB in the directory for temporary files, and a minute.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	columns, rows = 84, 18
	movieBytes    = 800e6
	deadline      = 5 * time.Minute
)

func main() {
	if err := record(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "recording:", err)
		os.Exit(1)
	}
}

func record(w io.Writer) (err error) {
	home, err := os.MkdirTemp("", "recording-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	if err := writeMovie(filepath.Join(home, "movie.mkv")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	// Limit the rate, so that the picture does not depend on this machine.
	sh, err := start(ctx, home, "CARLOAD_BWLIMIT=60MB", "CARLOAD_TRANSFERS=2")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sh.close()) }()

	root := ""
	for _, step := range []struct{ keys, until string }{
		{"", `^\$ $`},
		{"carload up movie.mkv\n", `sending .* 4\d %`},
		{"\x03", `\n\$ $`},
		{"carload up movie.mkv\n", `\n(baf\w+) .*(\n.*)+\n\$ $`},
		{"carload verify --full ROOT\n", `full\n\$ $`},
	} {
		m, err := sh.do(strings.ReplaceAll(step.keys, "ROOT", root), regexp.MustCompile(step.until))
		if err != nil {
			return err
		}
		if len(m) > 1 && strings.HasPrefix(m[1], "baf") {
			root = m[1]
		}
	}
	return writeSVG(w, thin(sh.frames))
}

// writeMovie writes incompressible bytes, the same each time.
func writeMovie(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), movieBytes)
	return errors.Join(err, f.Close())
}
