// Package web has what the console sends to browsers: the sources of its pages
// and of the packing engine, and what esbuild makes of them. Nothing but Go is
// needed to build it, for what is made is committed.
package web

import (
	"embed"
	"io/fs"
)

//go:generate go run -C gen .

//go:embed static
var static embed.FS

// Files are the files that browsers ask for, by name: scripts, styles, icons.
func Files() fs.FS {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the name is a constant, and valid
	}
	return files
}
