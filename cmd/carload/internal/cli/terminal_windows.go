package cli

import (
	"io"
	"os"

	"golang.org/x/sys/windows"
)

// movesCursor reports whether a terminal understands the sequences that move the
// cursor. Consoles of Windows have to be asked to.
func movesCursor(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	console := windows.Handle(f.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(console, &mode); err != nil {
		return false
	}
	return windows.SetConsoleMode(console, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
