package cli

import (
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// count formats a number of things for people.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if stem, ok := strings.CutSuffix(thing, "y"); ok && !strings.ContainsAny(stem[len(stem)-1:], "aeou") {
		return itoa(n) + " " + stem + "ies"
	}
	return itoa(n) + " " + thing + "s"
}

// shellQuote returns a command line that a shell parses into these words.
func shellQuote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`!*?[]{}()<>|&;#~") || !isPrintable(w) {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}
