package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/term"
)

// console prints results to standard output, and everything for people to
// standard error. It is safe for concurrent use.
type console struct {
	out, err    io.Writer
	quiet, json bool

	mu     sync.Mutex
	live   *live       // the changing lines at the bottom of the terminal; nil if there are none
	outErr error       // the first error from writing a result
	onErr  func(error) // called with that error; may be nil
}

// line prints a line for people.
func (c *console) line(s string) {
	_, _ = c.Write([]byte(printable(s) + "\n")) // there is nobody left to tell
}

// Write implements io.Writer. It takes whole lines for standard error that are
// already escaped.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == nil {
		return c.err.Write(p)
	}
	if _, err := io.WriteString(c.err, clearBelow+string(p)+c.live.draw()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// say prints a line for people, unless they passed --quiet.
func (c *console) say(format string, args ...any) {
	if !c.quiet {
		c.line(fmt.Sprintf(format, args...))
	}
}

func (c *console) warn(format string, args ...any) {
	if !c.quiet {
		c.line("carload: warning: " + fmt.Sprintf(format, args...))
	}
}

// errorLine prints an error and its hints, and in JSON mode the event.
func (c *console) errorLine(err error, code int) {
	c.line("carload: error: " + err.Error())
	hints := hintsFor(err)
	for _, h := range hints {
		c.line("  hint: " + h)
	}
	if c.json {
		c.event(errorEvent{header("error"), printable(err.Error()), code, hints})
	}
}

// result prints a line of results.
func (c *console) result(s string) {
	if c.json {
		return
	}
	c.write([]byte(s + "\n"))
}

// event prints a JSON line.
func (c *console) event(v any) {
	if !c.json {
		return
	}
	p, err := json.Marshal(v)
	if err != nil {
		p = []byte(`{"v":1,"type":"error","message":` + strconv.Quote(err.Error()) + `}`)
	}
	c.write(append(printableJSON(p), '\n'))
}

func (c *console) write(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil && isTerminal(c.out) { // both are the same terminal
		_, _ = io.WriteString(c.err, clearBelow)
		defer func() { _, _ = io.WriteString(c.err, c.live.draw()) }()
	}
	if _, err := c.out.Write(p); err != nil && c.outErr == nil {
		c.outErr = err
		if c.onErr != nil {
			c.onErr(err)
		}
	}
}

// errUnwritten is wrapped by errors from writing results.
var errUnwritten = errors.New("write results")

// unwritten returns the first error from writing results, without errUnwritten.
func (c *console) unwritten() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outErr
}

// failure returns the first error from writing results.
func (c *console) failure() error {
	if err := c.unwritten(); err != nil {
		return fmt.Errorf("%w: %w", errUnwritten, err)
	}
	return nil
}

// isTerminal reports whether v, a reader or writer, is a terminal.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// eventHeader is the beginning of each JSON line.
type eventHeader struct {
	V    int       `json:"v"`
	Type string    `json:"type"`
	Time time.Time `json:"time"`
}

func header(kind string) eventHeader { return eventHeader{1, kind, time.Now().UTC()} }

type errorEvent struct {
	eventHeader
	Message string   `json:"message"`
	Code    int      `json:"code"`
	Hints   []string `json:"hints,omitempty"`
}
