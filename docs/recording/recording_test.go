//go:build linux

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The screen behaves as a terminal does.
func TestScreen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		output string
		want   []string
	}{
		{"$ ls\r\na\tb\r\n", []string{"$ ls", "a       b", ""}},
		{"123456789012", []string{"1234567890", "12"}},
		{"\x1b[?7l123456789012\x1b[?7h\rab", []string{"ab34567892"}},
		{"one\r\ntwo\r\n\x1b[2A\r \x1b[J\rnew", []string{"new"}},
		{"1\r\n2\r\n3\r\n4", []string{"2", "3", "4"}},
		{"ä\b\bé", []string{"é"}},
	} {
		s := newScreen(10, 3)
		if err := s.write(c.output); err != nil || !slices.Equal(s.text(), c.want) {
			t.Errorf("%q: %q, %v", c.output, s.text(), err)
		}
	}
	for _, output := range []string{"\x1b[31m", "\x1b[", "\x07"} {
		if err := newScreen(10, 3).write(output); err == nil {
			t.Errorf("%q is shown", output)
		}
	}
}

// Pictures are XML that any browser can show, including the one in docs, and
// that one names no path of the machine that made it.
func TestPictures(t *testing.T) {
	t.Parallel()
	var made bytes.Buffer
	if err := writeSVG(&made, []frame{{0, []string{"$ a <b> & \"c\""}, 0, 0}, {time.Second, []string{"done", "", "$ "}, 2, 2}}); err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile("../terminal.svg")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{made.String(), string(picture)} {
		defined := map[string]bool{}
		used := 0
		for d := xml.NewDecoder(strings.NewReader(text)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			e, ok := token.(xml.StartElement)
			for _, a := range e.Attr {
				if ok && e.Name.Local == "text" && a.Name.Local == "id" {
					defined["#"+a.Value] = true
				}
				if ok && e.Name.Local == "use" && a.Name.Local == "href" {
					if used++; !defined[a.Value] {
						t.Errorf("line %s is used but not defined", a.Value)
					}
				}
			}
		}
		if used == 0 {
			t.Error("the picture has no lines")
		}
	}
	for _, want := range []string{"carload up movie.mkv", "sending", "interrupt: stopping", "resume with", "already there), verified", "carload verify --full"} {
		if !bytes.Contains(picture, []byte(want)) {
			t.Errorf("the picture does not show %q", want)
		}
	}
	if m := regexp.MustCompile(`/(tmp|root|dev|var|work)/|recording-`).Find(picture); m != nil {
		t.Errorf("the picture names %s", m)
	}
}
