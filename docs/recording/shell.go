//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// shell is a shell on a pseudo-terminal, with its recorded frames.
type shell struct {
	ctx    context.Context //nolint:containedctx // of the session
	pty    *os.File
	cmd    *exec.Cmd
	home   string
	chunks chan []byte
	screen *screen
	began  time.Time
	frames []frame
}

// frame is the screen from a point in time.
type frame struct {
	at    time.Duration
	lines []string
	x, y  int // position of the cursor
}

// publicHome is the home directory in the picture.
const publicHome = "/home/anna"

func start(ctx context.Context, home string, environ ...string) (*shell, error) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	number, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	err = errors.Join(err,
		unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0),
		unix.IoctlSetWinsize(int(pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	if err != nil {
		return nil, errors.Join(err, pty.Close())
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, errors.Join(err, pty.Close())
	}
	defer tty.Close()
	cmd := exec.CommandContext(ctx, "sh", "-i")
	cmd.Dir = home
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TERM=xterm", "PS1=$ "}, environ...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, pty.Close())
	}
	s := &shell{ctx: ctx, pty: pty, cmd: cmd, home: home, chunks: make(chan []byte), screen: newScreen(columns, rows), began: time.Now()}
	go s.read()
	return s, nil
}

func (s *shell) read() {
	defer close(s.chunks)
	for {
		chunk := make([]byte, 64<<10)
		n, err := s.pty.Read(chunk)
		if err != nil {
			return // the shell has ended
		}
		select {
		case s.chunks <- chunk[:n]:
		case <-s.ctx.Done():
			return
		}
	}
}

// do types keys, and waits until the screen shows what is expected.
func (s *shell) do(keys string, until *regexp.Regexp) ([]string, error) {
	const aKey, aPause = 55 * time.Millisecond, 900 * time.Millisecond
	pending := strings.SplitAfter(keys, "")
	if i := strings.Index(keys, "baf"); i >= 0 { // nobody types a CID
		pending = append(strings.SplitAfter(keys[:i], ""), keys[i:len(keys)-1], "\n")
	}
	typing := time.NewTimer(aPause)
	defer typing.Stop()
	for {
		if len(pending) == 0 || keys == "" {
			if m := until.FindStringSubmatch(s.screen.String()); m != nil {
				return m, nil
			}
		}
		select {
		case <-typing.C:
			if len(pending) == 0 {
				continue
			}
			if _, err := s.pty.WriteString(pending[0]); err != nil {
				return nil, err
			}
			if pending = pending[1:]; len(pending) == 1 && pending[0] == "\n" {
				typing.Reset(aPause / 2)
			} else {
				typing.Reset(aKey)
			}
		case chunk, ok := <-s.chunks:
			if !ok {
				return nil, fmt.Errorf("the shell ended; the screen:\n%s", s.screen)
			}
			if err := s.screen.write(strings.ReplaceAll(string(chunk), s.home, publicHome)); err != nil {
				return nil, err
			}
			s.frames = append(s.frames, frame{time.Since(s.began), s.screen.text(), s.screen.x, s.screen.y})
		case <-s.ctx.Done():
			return nil, fmt.Errorf("%w: waiting for %q; the screen:\n%s", s.ctx.Err(), until, s.screen)
		}
	}
}

func (s *shell) close() error {
	_ = s.cmd.Process.Kill() // it waits for a command
	_ = s.cmd.Wait()         // killed
	return s.pty.Close()
}

// thin leaves out frames that nobody could follow: those shorter than a moment,
// and all but a moment of those in which nothing happens.
func thin(frames []frame) (thinned []frame) {
	const shortest, longest = 200 * time.Millisecond, 1500 * time.Millisecond
	var now time.Duration
	for i, f := range frames {
		if i+1 < len(frames) && frames[i+1].at-f.at < 20*time.Millisecond {
			continue // half of a change
		}
		if n := len(thinned); n > 0 {
			now += min(f.at-frames[i-1].at, longest)
			if now-thinned[n-1].at < shortest && i+1 < len(frames) {
				continue
			}
		}
		f.at = now
		thinned = append(thinned, f)
	}
	return thinned
}
