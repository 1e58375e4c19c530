package cli

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// live is the changing lines at the bottom of a terminal. After each drawing
// the cursor is where they begin, so everything below it can be cleared,
// whatever happened to the lines. A narrower terminal breaks each of them into
// several.
type live struct{ lines []string }

const (
	// The space is for tmux: it treats clearing from the first column of the first
	// row as clearing the whole screen, and keeps the old content in its history.
	clearBelow = "\r \x1b[J\r"
	wrapOff    = "\x1b[?7l" // the terminal cuts long lines, even if its width has changed
	wrapOn     = "\x1b[?7h"
)

// draw returns the output that shows the lines at the cursor, and leaves the
// cursor there.
func (l *live) draw() string {
	if len(l.lines) == 0 {
		return ""
	}
	up := ""
	if n := len(l.lines) - 1; n > 0 {
		up = "\x1b[" + itoa(n) + "A"
	}
	return wrapOff + strings.Join(l.lines, "\n") + wrapOn + "\r" + up
}

// show replaces the lines at the bottom of the terminal.
func (c *console) show(lines []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil {
		c.live = new(live)
	}
	c.live.lines = lines
	_, _ = io.WriteString(c.err, clearBelow+c.live.draw()) // there is nobody left to tell
}

// hide clears the lines that show drew.
func (c *console) hide() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		_, _ = io.WriteString(c.err, clearBelow) // there is nobody left to tell
	}
	c.live = nil
}

// terminalSize returns the columns and rows of w, or the usual ones if w is not
// a terminal.
func terminalSize(w io.Writer) (columns, rows int) {
	if f, ok := w.(*os.File); ok {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
	}
	return helpColumns, 24
}

// fit cuts a line to this many columns.
func fit(line string, columns int) string { return runewidth.Truncate(line, max(columns, 1), "…") }

// without calls f while the lines are cleared and nothing is written.
func (c *console) without(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		_, _ = io.WriteString(c.err, clearBelow) // there is nobody left to tell
	}
	f()
}

// leaveWait limits how long leave waits for a write to the terminal.
const leaveWait = time.Second

// leave clears the lines at the bottom before the process ends by a signal, and
// blocks all later output. It does not wait for a terminal that accepts
// nothing.
func (c *console) leave() {
	cleared := make(chan struct{})
	go func() {
		c.mu.Lock() // never unlocked
		if c.live != nil {
			_, _ = io.WriteString(c.err, clearBelow) // there is nobody left to tell
		}
		close(cleared)
	}()
	timer := time.NewTimer(leaveWait)
	defer timer.Stop()
	select {
	case <-cleared:
	case <-timer.C:
	}
}
