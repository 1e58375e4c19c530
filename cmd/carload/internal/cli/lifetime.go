package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader"
)

// grace is how long work in flight may take after the first signal.
const grace = 30 * time.Second

// lifetime ends in two stages. The first SIGINT or SIGTERM ends soft: nothing
// new is started. After the grace period hard ends too. A second signal kills
// the process at once: it is no longer caught.
type lifetime struct {
	soft, hard context.Context //nolint:containedctx // of the whole process

	stop  context.CancelCauseFunc // ends soft
	end   context.CancelFunc
	group errgroup.Group
}

func newLifetime(ctx context.Context, con *console) *lifetime {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Nobody reads what is said any more. That is an error of the write, and no
	// reason to die in the middle.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
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
			signal.Stop(signals)
			con.say("carload: %s: stopping; once more stops at once", s)
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
	return l
}

// close lets go of the signals.
func (l *lifetime) close() {
	l.end()
	_ = l.group.Wait() // its goroutine has no errors
}

// blame turns an error that only says that something was cut short into the
// signal that cut it.
func (l *lifetime) blame(err error) error {
	var s interrupted
	if errors.As(context.Cause(l.soft), &s) && !errors.As(err, new(interrupted)) &&
		(errors.Is(err, context.Canceled) || errors.Is(err, uploader.ErrStopped)) {
		return errors.Join(s, err)
	}
	return err
}
