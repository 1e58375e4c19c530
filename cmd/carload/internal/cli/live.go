package cli

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// live is the lines at the bottom of a terminal that change while a command
// works. After each drawing the cursor is where they begin: then all that is
// below it can be cleared, whatever became of the lines meanwhile. A terminal
// that is made narrower breaks each of them into several.
type live struct{ lines []string }

const (
	// The space is for tmux: it takes a clearing from the first column of the first
	// row for one of the whole screen, and keeps what was there in its history.
	clearBelow = "\r \x1b[J\r"
	wrapOff    = "\x1b[?7l" // what does not fit is cut, also if the width is no longer the one that was asked for
	wrapOn     = "\x1b[?7h"
)

// draw is what shows the lines at the cursor, and leaves it there.
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

// show draws lines at the bottom of the terminal, instead of those that are
// there.
func (c *console) show(lines []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil {
		c.live = new(live)
	}
	c.live.lines = lines
	_, _ = io.WriteString(c.err, clearBelow+c.live.draw()) // nobody is left to tell
}

// hide clears the lines that show drew.
func (c *console) hide() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		_, _ = io.WriteString(c.err, clearBelow) // nobody is left to tell
	}
	c.live = nil
}

// terminalSize is the columns and rows of w, and what most have if it is no
// terminal.
func terminalSize(w io.Writer) (columns, rows int) {
	if f, ok := w.(*os.File); ok {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && rows > 0 {
			return columns, rows
		}
	}
	return helpColumns, 24
}

// fit cuts a line to so many columns.
func fit(line string, columns int) string { return runewidth.Truncate(line, max(columns, 1), "…") }

// without calls f while the lines are cleared and nothing is written.
func (c *console) without(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		_, _ = io.WriteString(c.err, clearBelow) // nobody is left to tell
	}
	f()
}

// leaveWait bounds how long leave waits for a write to the terminal to end.
const leaveWait = time.Second

// leave clears the lines at the bottom when the process is about to end by a
// signal, and nothing is written after that. A terminal that takes nothing is not
// waited for.
func (c *console) leave() {
	cleared := make(chan struct{})
	go func() {
		c.mu.Lock() // for good
		if c.live != nil {
			_, _ = io.WriteString(c.err, clearBelow) // nobody is left to tell
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
