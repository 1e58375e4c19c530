// Package web holds what the console sends to browsers: the sources of its
// pages and of the packing engine, and the bundles that esbuild makes of them.
// The bundles are committed, so a build needs nothing but Go.
package web

import (
	"embed"
	"io/fs"
)

//go:generate go run -C gen .

//go:embed static
var static embed.FS

// Files returns the files that browsers ask for by name: scripts, styles,
// icons.
func Files() fs.FS {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // cannot happen: the name is a valid constant
	}
	return files
}
