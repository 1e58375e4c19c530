package cli

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newTestApp(t *testing.T, environ ...string) *app {
	t.Helper()
	a := &app{
		stdio: Stdio{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard},
		env:   parseEnvironment(environ),
		con:   &console{out: io.Discard, err: io.Discard},
	}
	a.life = newLifetime(context.Background(), a.con)
	t.Cleanup(a.life.close)
	return a
}

func eachCommand(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		eachCommand(c, f)
	}
}

// valueFor returns a value for the flag other than its default.
func valueFor(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		if f.DefValue == "true" {
			return "false"
		}
		return "true"
	case "int", "count", "size", "size/s":
		return "7"
	case "rate":
		return "7/1s"
	case "part", "fraction":
		return "7/9"
	case "duration":
		return "7m0s"
	case "age":
		return "7d"
	}
	switch f.Name {
	case "progress":
		return "none"
	case "verify":
		return "receipt"
	}
	return "seven"
}

// Every flag of every command has an environment variable, a help text in our
// style, and a key of the same name in the configuration file.
func TestFlags(t *testing.T) {
	t.Parallel()
	a := newTestApp(t)
	commands := 0
	types := map[string]string{}
	eachCommand(a.rootCommand(), func(cmd *cobra.Command) {
		commands++
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || !unicode.IsUpper(rune(cmd.Short[0])) {
			t.Errorf("%s: summary %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.HasParent() && !cmd.Hidden && !cmd.IsAdditionalHelpTopicCommand() && cmd.Example == "" && cmd.Name() != "help" && cmd.Name() != "completion" && cmd.Parent().Name() != "completion" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		seen := func(f *pflag.Flag) {
			if f.Name == "help" {
				return
			}
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") || unicode.IsUpper(rune(f.Usage[0])) && !strings.HasPrefix(f.Usage, "URL") && !strings.HasPrefix(f.Usage, "CID") {
				t.Errorf("%s --%s: help %q", cmd.CommandPath(), f.Name, f.Usage)
			}
			if strings.Contains(f.Name, "token") && !strings.HasSuffix(f.Name, "-file") && !strings.HasSuffix(f.Name, "-command") {
				t.Errorf("%s --%s: a secret must not be a flag", cmd.CommandPath(), f.Name)
			}
			if was, ok := types[f.Name]; ok && was != f.Value.Type() {
				t.Errorf("--%s is of type %s and of type %s: no variable or configuration file can serve both", f.Name, was, f.Value.Type())
			}
			types[f.Name] = f.Value.Type()
			want := valueFor(f)
			one := newTestApp(t, variable(f.Name)+"="+want)
			twin, _, err := one.rootCommand().Find(strings.Fields(cmd.CommandPath())[1:])
			if err != nil {
				t.Fatal(err)
			}
			if err := twin.ParseFlags(nil); err != nil {
				t.Fatal(err)
			}
			if f.Name == "config" {
				return // it names a file that would be read
			}
			if err := one.applySettings(twin); err != nil {
				t.Errorf("%s: %s=%s: %v", cmd.CommandPath(), variable(f.Name), want, err)
				return
			}
			got := twin.Flags().Lookup(f.Name)
			if !got.Changed || !strings.Contains(got.Value.String(), want) {
				t.Errorf("%s: %s=%s left --%s as %q", cmd.CommandPath(), variable(f.Name), want, f.Name, got.Value)
			}
			if len(one.settings.warnings) > 0 {
				t.Errorf("%s is not known: %v", variable(f.Name), one.settings.warnings)
			}
		}
		cmd.LocalFlags().VisitAll(seen)
	})
	if commands < 25 {
		t.Errorf("only %d commands", commands)
	}
}

// Every command prints its help on standard output, and refuses what it does
// not know with a usage error.
func TestHelpAndUnknownFlag(t *testing.T) {
	t.Parallel()
	eachCommand(newTestApp(t).rootCommand(), func(cmd *cobra.Command) {
		path := strings.Fields(cmd.CommandPath())[1:]
		if cmd.IsAdditionalHelpTopicCommand() {
			return // a topic, not a command
		}
		environ := []string{"HOME=" + t.TempDir()}
		var out, errOut bytes.Buffer
		code := Main(context.Background(), append(path, "--help"), Stdio{strings.NewReader(""), &out, &errOut}, environ)
		if code != exitOK || !strings.Contains(out.String(), "Usage:") || errOut.Len() > 0 {
			t.Errorf("%v --help: code %d, %d bytes, standard error %q", path, code, out.Len(), errOut.String())
		}
		out.Reset()
		code = Main(context.Background(), append(path, "--no-such-flag"), Stdio{strings.NewReader(""), &out, &errOut}, environ)
		if code != exitUsage || out.Len() > 0 || !strings.Contains(errOut.String(), "no-such-flag") {
			t.Errorf("%v --no-such-flag: code %d, standard output %q, standard error %q", path, code, out.String(), errOut.String())
		}
	})
}
