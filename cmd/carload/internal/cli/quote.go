package cli

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable escapes what could move the cursor, change colours or break a
// line: text of file names and services ends up in messages.
func printable(s string) string {
	if isPrintable(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\n':
			b.WriteString("; ") // errors.Join puts one between its errors
		case r == utf8.RuneError && n == 1, !unicode.IsPrint(r):
			q := strconv.Quote(s[:n])
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func isPrintable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// quotePath is a path as results show it: as it is, or quoted if it has
// anything that is not printable or could be taken for a quoted one.
func quotePath(path string) string {
	if isPrintable(path) && !strings.HasPrefix(path, `"`) {
		return path
	}
	return strconv.Quote(path)
}
