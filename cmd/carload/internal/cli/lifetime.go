package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader"
)

// grace is how long work in flight may take after the first signal.
const grace = 30 * time.Second

// lifetime ends in two stages. The first SIGINT or SIGTERM ends soft: the
// engine starts nothing new. After the grace period hard ends too. A second
// signal kills the process at once.
type lifetime struct {
	soft, hard context.Context //nolint:containedctx // of the whole process

	stop  context.CancelCauseFunc // ends soft
	end   context.CancelFunc
	group errgroup.Group

	mu   sync.Mutex
	tell func() // prints progress; nil if nothing is running
}

func newLifetime(ctx context.Context, con *console) *lifetime {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// SIGPIPE means that nobody reads the output any more. The write fails as
	// well, which is enough: the process must not die in the middle of its
	// work.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	asked, suspended := make(chan os.Signal, 1), make(chan os.Signal, 1)
	notifySuspend(suspended)
	if s := snapshotSignals(); len(s) > 0 {
		signal.Notify(asked, s...)
	}
	hard, cancelHard := context.WithCancelCause(ctx)
	soft, cancelSoft := context.WithCancelCause(ctx)
	ended, end := context.WithCancel(context.Background())
	l := &lifetime{soft: soft, hard: hard, stop: cancelSoft, end: end}
	l.group.Go(func() error {
		defer cancelHard(nil)
		defer cancelSoft(nil)
		defer signal.Stop(signals)
		defer signal.Stop(broken)
		select {
		case <-ended.Done():
			return nil
		case s := <-signals:
			l.group.Go(func() error {
				select {
				case <-ended.Done():
				case again := <-signals:
					con.leave()
					die(again)
				}
				return nil
			})
			con.say("carload: %s: stopping; a second signal stops at once", s)
			cancelSoft(interrupted{s})
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-ended.Done():
			case <-timer.C:
				cancelHard(interrupted{s})
				<-ended.Done()
			}
		}
		return nil
	})
	l.group.Go(func() error {
		defer signal.Stop(asked)
		defer signal.Stop(suspended)
		for {
			select {
			case <-ended.Done():
				return nil
			case <-asked:
				l.snapshot(con)
			case <-suspended:
				con.without(suspend) // the shell writes next
			}
		}
	})
	return l
}

// onSnapshot sets the function that prints progress when a signal asks for it,
// until the returned function is called.
func (l *lifetime) onSnapshot(tell func()) (forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.tell
	l.tell = tell
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tell = before
	}
}

func (l *lifetime) snapshot(con *console) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tell == nil {
		con.line("carload: nothing is running that could show progress")
		return
	}
	l.tell()
}

// close stops handling signals.
func (l *lifetime) close() {
	l.end()
	_ = l.group.Wait() // its goroutine returns no errors
}

// blame replaces an error that only reports a cancellation by the signal that
// caused it.
func (l *lifetime) blame(err error) error {
	var s interrupted
	if errors.As(context.Cause(l.soft), &s) && !errors.As(err, new(interrupted)) &&
		(errors.Is(err, context.Canceled) || errors.Is(err, uploader.ErrStopped)) {
		return errors.Join(s, err)
	}
	return err
}
