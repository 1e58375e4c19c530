package cli

import (
	"io"
	"os"

	"golang.org/x/sys/windows"
)

// movesCursor reports whether a terminal understands sequences that move the
// cursor. Windows consoles must be switched to them.
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
