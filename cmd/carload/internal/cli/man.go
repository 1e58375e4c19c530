package cli

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write man pages into a directory",
		Long: `Write the help as man pages into a directory, which is created if missing: one
page for each command (section 1) and each topic (section 7).`,
		Example: `  carload man ~/.local/share/man/man1
  carload man pages && man pages/carload-up.1`,
		Args: oneArg("the directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			var err error
			eachCommandBelow(cmd.Root(), func(c *cobra.Command) {
				if err == nil && !c.Hidden {
					err = os.WriteFile(filepath.Join(args[0], manName(c)+"."+manSection(c)), manPage(c), 0o644) //nolint:gosec // for everybody
				}
			})
			return err
		},
	}
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func manSection(c *cobra.Command) string {
	if c.IsAdditionalHelpTopicCommand() {
		return "7"
	}
	return "1"
}

// manPage is a command as a page in the macros of man(7).
func manPage(c *cobra.Command) []byte {
	var p roff
	p.macro("TH", strings.ToUpper(manName(c)), manSection(c), commitDay(), "carload "+version(), "carload")
	p.macro("SH", "NAME")
	p.text(manName(c) + ` \- ` + roffText(c.Short))
	if c.Runnable() {
		p.macro("SH", "SYNOPSIS")
		p.text(roffText(c.UseLine()))
	}
	p.macro("SH", "DESCRIPTION")
	about := c.Long
	if about == "" {
		about = c.Short + "."
	}
	p.prose(about)
	groups := map[string][]*pflag.Flag{}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := groupOther
		if of := f.Annotations[groupKey]; len(of) > 0 {
			name = of[0]
		}
		groups[name] = append(groups[name], f)
	})
	if len(groups) > 0 {
		p.macro("SH", "OPTIONS")
	}
	for _, name := range groupOrder {
		if len(groups[name]) > 0 && (len(groups) > 1 || name != groupOther) {
			p.macro("SS", name)
		}
		for _, f := range groups[name] {
			name, usage := flagText(f)
			p.macro("TP")
			p.text(`\fB` + roffText(strings.TrimSpace(name)) + `\fR`)
			p.text(roffText(usage))
		}
	}
	if c.HasExample() {
		p.macro("SH", "EXAMPLES")
		p.literal(c.Example)
	}
	var also []string
	if c.HasParent() {
		also = append(also, manRef(c.Parent()))
	}
	for _, below := range c.Commands() {
		if !below.Hidden {
			also = append(also, manRef(below))
		}
	}
	if len(also) > 0 {
		p.macro("SH", "SEE ALSO")
		p.text(strings.Join(also, ", "))
	}
	return []byte(p.String())
}

func manRef(c *cobra.Command) string {
	return `\fB` + roffText(manName(c)) + `\fR(` + manSection(c) + ")"
}

// commitDay is the day of the commit, so that repeated builds give the same
// pages.
func commitDay() string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			day, _, _ := strings.Cut(s.Value, "T")
			return day
		}
	}
	return ""
}

// roff is a page in the language of troff.
type roff struct{ strings.Builder }

func (r *roff) macro(name string, args ...string) {
	r.WriteString("." + name)
	for _, arg := range args {
		r.WriteString(` "` + strings.ReplaceAll(roffText(arg), `"`, `\(dq`) + `"`)
	}
	r.WriteByte('\n')
}

// text writes a line of troff.
func (r *roff) text(s string) { r.WriteString(s + "\n") }

// prose writes paragraphs. Indented lines stay as they are.
func (r *roff) prose(s string) {
	for i, paragraph := range strings.Split(strings.TrimSpace(s), "\n\n") {
		if strings.HasPrefix(paragraph, " ") || strings.Contains(paragraph, "\n ") {
			r.macro("PP")
			r.literal(paragraph)
			continue
		}
		if i > 0 {
			r.macro("PP")
		}
		r.text(roffText(paragraph))
	}
}

func (r *roff) literal(s string) {
	r.macro("nf")
	r.text(roffText(s))
	r.macro("fi")
}

// roffText escapes text so that troff prints it unchanged.
func roffText(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
