package cli

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// printable escapes everything that could move the cursor, change colours or
// break a line, because messages contain file names and text from services.
func printable(s string) string {
	if isPrintable(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == '\n':
			b.WriteString("; ") // errors.Join separates its errors by a newline
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

// printableJSON escapes in JSON what [json.Marshal] leaves and a terminal might act
// on. The values stay the same.
func printableJSON(p []byte) []byte {
	if isPrintable(string(p)) {
		return p
	}
	var out []byte
	for _, r := range string(p) {
		switch {
		case unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

func isPrintable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return utf8.ValidString(s)
}

// quotePath returns a path for results: unchanged, or quoted if it contains
// anything unprintable or could be taken for a quoted path.
func quotePath(path string) string {
	if isPrintable(path) && !strings.HasPrefix(path, `"`) {
		return path
	}
	return strconv.Quote(path)
}
