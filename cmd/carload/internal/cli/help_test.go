package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func help(t *testing.T, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := Main(context.Background(), args, Stdio{strings.NewReader(""), &out, &errOut}, []string{"HOME=" + t.TempDir()}); code != exitOK {
		t.Fatalf("%v: code %d: %s", args, code, errOut.String())
	}
	return out.String()
}

// The whole help shows every flag of a command once, and the short help the
// common ones. No line is wider than 80 columns, except for long words and
// lines that the author broke.
func TestHelpShowsEveryFlag(t *testing.T) {
	t.Parallel()
	eachCommand(newTestApp(t).rootCommand(), func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())[1:]
		if cmd.Hidden || len(path) == 0 || path[0] == "completion" || path[0] == "help" {
			return
		}
		whole, short := help(t, append([]string{"help"}, path...)...), help(t, append(path, "--help")...)
		grouped := 0
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			if _, is := f.Annotations[commonKey]; is {
				grouped++
				if !shows(short, f.Name) {
					t.Errorf("%v --help lacks --%s, which is common", path, f.Name)
				}
			}
			if !shows(whole, f.Name) {
				t.Errorf("help %v lacks --%s", path, f.Name)
			}
		})
		if grouped > 0 && !strings.Contains(short, "more flags: carload help "+strings.Join(path, " ")) {
			t.Errorf("%v --help does not say where the rest is:\n%s", path, short)
		}
		_, flags, _ := strings.Cut(whole, "\nUsage:")
		for line := range strings.SplitSeq(flags, "\n") {
			if utf8.RuneCountInString(line) > helpColumns && strings.HasPrefix(line, strings.Repeat(" ", 20)) {
				t.Errorf("help %v: a line of %d columns: %s", path, utf8.RuneCountInString(line), line)
			}
		}
	})
}

// shows finds a flag at the beginning of a line.
func shows(help, name string) bool {
	for line := range strings.SplitSeq(help, "\n") {
		for word := range strings.FieldsSeq(line) {
			if word == "--"+name {
				return true
			}
			if !strings.HasPrefix(word, "-") {
				break
			}
		}
	}
	return false
}
