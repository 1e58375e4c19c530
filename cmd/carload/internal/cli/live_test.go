package cli

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-runewidth"

	"github.com/carload/carload/uploader"
)

// screenOf returns what a terminal shows after this output. It knows the
// sequences that live lines use.
func screenOf(t *testing.T, output string) []string {
	t.Helper()
	lines, at, column := []string{""}, 0, 0
	for len(output) > 0 {
		switch output[0] {
		case '\r':
			column = 0
		case '\n':
			if at++; at == len(lines) {
				lines = append(lines, "")
			}
			column = 0
		case '\x1b':
			end := strings.IndexFunc(output[2:], func(r rune) bool { return r >= 'A' }) + 2
			switch arg := output[2:end]; {
			case output[end] == 'J' && column == 0:
				t.Fatalf("all of line %d and what is below is cleared: if it is the first, tmux keeps it", at)
			case output[end] == 'J':
				lines = append(lines[:at], lines[at][:column])
			case output[end] == 'A':
				n, err := strconv.Atoi(arg)
				if err != nil || n > at {
					t.Fatalf("up by %q at line %d", arg, at)
				}
				at -= n
			case arg != "?7":
				t.Fatalf("unknown sequence %q", output[:end+1])
			}
			output = output[end:]
		default:
			lines[at] = lines[at][:min(column, len(lines[at]))] + string(output[0]) + lines[at][min(column+1, len(lines[at])):]
			column++
		}
		output = output[1:]
	}
	return lines
}

// Messages and results stay above the changing lines, and no old text of these
// remains.
func TestLiveLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := &console{out: &bytes.Buffer{}, err: &out}
	c.line("before")
	c.show([]string{"a long line of a bar", "two", "three"})
	c.line("a message")
	c.show([]string{"short", "II"})
	c.say("another %s", "one")
	if got, want := screenOf(t, out.String()), []string{"before", "a message", "another one", "short", "II"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	c.show(nil)
	c.line("x")
	c.show([]string{"last"})
	c.hide()
	c.line("after")
	c.show([]string{"the end"})
	c.leave()
	if c.mu.TryLock() {
		t.Error("something can be written after it left")
	}
	if got, want := screenOf(t, out.String()), []string{"before", "a message", "another one", "x", "after", " "}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A frame fits into the terminal, however small that is and however long file
// names are, and names the active inputs if there are several.
func TestFrame(t *testing.T) {
	t.Parallel()
	b := &board{}
	at := time.Unix(1e9, 0)
	p := &progress{board: b, names: phases{first: "hashing", second: "sending"}, started: at}
	s := uploader.Progress{BytesHashed: 3 << 30, BytesToHash: 4 << 30, BytesSent: 1 << 30, BytesToSend: 4 << 30, ShardsDone: 10, Shards: 40, Inputs: 1, Retries: 2, BytesResent: 5 << 20}
	o := observer{con: &console{out: &bytes.Buffer{}, err: &bytes.Buffer{}}, board: b}
	o.Observe(uploader.Describing{Name: "photo", Bytes: 3 << 20})
	if lines := p.frame(at, s, 80, 24); len(lines) != 3 || !strings.Contains(lines[2], "10 of 40 shards, 2 retries, 5.0 MiB sent again") {
		t.Errorf("one input: %q", lines)
	}
	s.Inputs = 2
	if lines := p.frame(at, s, 80, 24); len(lines) != 4 || lines[3] != "  photo: hashing 3.0 MiB" {
		t.Errorf("the last of two inputs: %q", lines)
	}
	for i := range 6 {
		o.Observe(uploader.Describing{Name: fmt.Sprintf("映画の名前がとても長い場合にはどうなるのでしょうか-%d.mkv", i)})
	}
	o.Observe(uploader.Described{Name: "photo", Bytes: 3 << 20, Shards: 3})
	o.Observe(uploader.ShardSent{Name: "photo", Count: 3})
	o.Observe(uploader.Retrying{Name: "photo", Index: 1, Attempt: 1, Wait: time.Hour, Err: errUnwritten})
	s.Inputs, s.InputsDone = 9, 2
	for i := range 20 {
		now := at.Add(time.Duration(i) * time.Second)
		p.hashed.add(now, 3<<30-int64(20-i)<<20)
		p.sent.add(now, 1<<30-int64(20-i)<<20)
	}
	for _, columns := range []int{10, 40, 60, 80, 120, 300} {
		lines := p.frame(time.Now(), s, columns, 24)
		for _, line := range lines {
			if w := runewidth.StringWidth(line); w >= columns {
				t.Errorf("%d columns: a line of %d: %s", columns, w, line)
			}
		}
		all := strings.Join(lines, "\n")
		if len(lines) != 9 || columns >= 40 && (!strings.Contains(all, "photo: 1 of 3 shards") || !strings.Contains(all, "and 3 more") || !strings.Contains(all, "1 try failed, again in ")) {
			t.Errorf("%d columns:\n%s", columns, all)
		}
		if has := strings.Contains(all, "1.0 MiB/s, about 51m12s left"); has != (columns >= 80) {
			t.Errorf("%d columns: rate and time are there: %t\n%s", columns, has, all)
		}
		if has := strings.Contains(all, "=>"); has != (columns >= 60) {
			t.Errorf("%d columns: bars are there: %t\n%s", columns, has, all)
		}
	}
	if lines := p.frame(time.Now(), s, 80, 4); len(lines) != 3 {
		t.Errorf("%d lines on a terminal of 4", len(lines))
	}
	b.pace(2)
	if line := p.line(time.Now(), s); !strings.Contains(line, "2 requests waiting for the rate limit") {
		t.Errorf("requests wait, and the line says %s", line)
	}
	b.pace(-2)
	b.end("photo")
	if line := p.line(time.Now(), s); strings.Contains(line, "photo") || strings.Contains(line, "failed") {
		t.Errorf("it is through, and the line says %s", line)
	}
}

// The ETA appears when the rate has been known for a while.
func TestETAWaits(t *testing.T) {
	t.Parallel()
	var m meter
	at := time.Unix(0, 0)
	for i := range int64(4) {
		m.add(at.Add(time.Duration(i)*time.Second), i*1000)
	}
	if eta := m.eta(1000); eta != "" || m.rate() != 1000 {
		t.Errorf("after 3 s: %q, rate %v", eta, m.rate())
	}
	m.add(at.Add(6*time.Second), 6000)
	if eta := m.eta(1000); eta != "about 1s" {
		t.Errorf("after 6 s: %q", eta)
	}
	if eta := m.eta(1 << 60); eta != "" {
		t.Errorf("years: %q", eta)
	}
}
