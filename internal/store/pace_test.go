package store

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// A scrub reads no faster than allowed, and can be stopped while it waits.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const second = 1 << 20
		pace := rate.NewLimiter(second, paceBytes)
		start := time.Now()
		r := &paced{t.Context(), strings.NewReader(strings.Repeat("x", 10*second)), pace}
		if n, err := io.Copy(io.Discard, r); err != nil || n != 10*second {
			t.Fatal(n, err)
		}
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r = &paced{ctx, strings.NewReader(strings.Repeat("x", 10*second)), pace}
		if n, err := io.Copy(io.Discard, r); err == nil || n > 2*second {
			t.Errorf("%d bytes were read in a second, %v", n, err)
		}
	})
}
