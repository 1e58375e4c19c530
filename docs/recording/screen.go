//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// screen is a terminal that knows the sequences of carload and a shell.
type screen struct {
	columns, rows int
	lines         [][]rune
	x, y          int
	cut           bool // long lines are cut, not wrapped
}

func newScreen(columns, rows int) *screen {
	return &screen{columns: columns, rows: rows, lines: [][]rune{nil}}
}

func (s *screen) write(output string) error {
	for output != "" {
		if strings.HasPrefix(output, "\x1b[") {
			end := 2 + strings.IndexFunc(output[2:], func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 2 {
				return fmt.Errorf("half a sequence: %q", output)
			}
			if err := s.control(output[2:end], output[end]); err != nil {
				return err
			}
			output = output[end+1:]
			continue
		}
		r := []rune(output)[0]
		output = output[len(string(r)):]
		switch r {
		case '\r':
			s.x = 0
		case '\n':
			s.down()
		case '\b':
			s.x = max(s.x-1, 0)
		case '\t':
			s.x = min(s.x/8*8+8, s.columns-1)
		default:
			if r < ' ' {
				return fmt.Errorf("unknown control %q", r)
			}
			s.put(r)
		}
	}
	return nil
}

func (s *screen) put(r rune) {
	if s.x == s.columns {
		if s.cut {
			s.x--
		} else {
			s.x = 0
			s.down()
		}
	}
	line := s.lines[s.y]
	for len(line) <= s.x {
		line = append(line, ' ')
	}
	line[s.x] = r
	s.lines[s.y] = line
	s.x++
}

func (s *screen) down() {
	if s.y++; s.y == len(s.lines) {
		s.lines = append(s.lines, nil)
	}
	if len(s.lines) > s.rows {
		s.lines = s.lines[1:]
		s.y--
	}
}

func (s *screen) control(arg string, final byte) error {
	switch {
	case final == 'J' && arg == "":
		s.lines = s.lines[:s.y+1]
		s.lines[s.y] = s.lines[s.y][:min(s.x, len(s.lines[s.y]))]
	case final == 'A':
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		s.y = max(s.y-n, 0)
	case arg == "?7":
		s.cut = final == 'l'
	default:
		return fmt.Errorf("unknown sequence %q", arg+string(final))
	}
	return nil
}

// text returns a copy of the lines.
func (s *screen) text() (lines []string) {
	for _, line := range s.lines {
		lines = append(lines, strings.TrimRight(string(line), " "))
	}
	return lines
}

// String returns the lines, with the space before the cursor.
func (s *screen) String() string {
	lines := s.text()
	last := []rune(lines[s.y])
	for len(last) < s.x {
		last = append(last, ' ')
	}
	lines[s.y] = string(last)
	return strings.Join(lines, "\n")
}
