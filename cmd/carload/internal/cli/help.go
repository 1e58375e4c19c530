package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// Groups of flags, in the order of the help.
const (
	groupWhat   = "What to send"
	groupWhere  = "Where to"
	groupFrom   = "Where from"
	groupOutput = "Output"
	groupSafety = "Safety"
	groupSpeed  = "Speed"
	groupRecipe = "Recipe"
	groupOther  = "Flags"
)

var groupOrder = []string{groupOther, groupWhat, groupFrom, groupWhere, groupOutput, groupSafety, groupSpeed, groupRecipe} //nolint:gochecknoglobals // an order

const (
	groupKey  = "group"
	commonKey = "common"
)

// group puts flags into a group of the help. Flags without a group come first.
func group(f *pflag.FlagSet, name string, flags ...string) {
	for _, flag := range flags {
		f.Lookup(flag).Annotations = map[string][]string{groupKey: {name}}
	}
}

// common marks the flags that --help shows of a long list.
func common(f *pflag.FlagSet, flags ...string) {
	for _, flag := range flags {
		fl := f.Lookup(flag)
		if fl.Annotations == nil {
			fl.Annotations = map[string][]string{}
		}
		fl.Annotations[commonKey] = nil
	}
}

// helpColumns is the width of the help when the width of the terminal is
// unknown, and its maximum.
const helpColumns = 80

// width returns the width of w in columns.
func width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return helpColumns
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return helpColumns
	}
	return min(max(columns, 40), 100)
}

// showHelp explains a command, with all its flags or only the common ones.
func showHelp(cmd *cobra.Command, whole bool) {
	w := &page{columns: width(cmd.OutOrStdout())}
	defer w.print(cmd.OutOrStdout())
	about := cmd.Long
	if about == "" {
		about = cmd.Short
	}
	w.line(strings.TrimSpace(about))
	if !cmd.Runnable() && !cmd.HasSubCommands() {
		return // a topic
	}
	w.line("")
	showUsage(w, cmd, whole)
}

// page collects text to write it at once.
type page struct {
	strings.Builder
	columns int
}

func (p *page) line(s string) {
	p.WriteString(s)
	p.WriteByte('\n')
}

func (p *page) print(w io.Writer) { _, _ = io.WriteString(w, p.String()) } // the reader has seen enough

// showUsage prints the part of the help that depends on the flags.
func showUsage(w *page, cmd *cobra.Command, whole bool) {
	w.line("Usage:")
	if cmd.Runnable() && cmd.HasParent() && !cmd.HasSubCommands() {
		w.line("  " + cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		w.line("  " + cmd.CommandPath() + " COMMAND")
	}
	if len(cmd.Aliases) > 0 {
		w.line("\nAlso: " + strings.Join(cmd.Aliases, ", "))
	}
	if cmd.HasExample() {
		w.line("\nExamples:\n" + cmd.Example)
	}
	showCommands(w, cmd)
	hidden := showFlags(w, cmd, whole)
	if cmd.HasParent() && hidden > 0 {
		w.line(fmt.Sprintf("\n%s has %d more flags: %s help %s shows them.", cmd.CommandPath(), hidden, cmd.Root().Name(), strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")))
	}
	if cmd.HasAvailableSubCommands() {
		w.line(fmt.Sprintf("\n%s COMMAND --help explains a command.", cmd.CommandPath()))
	}
}

func showCommands(w *page, cmd *cobra.Command) {
	show := func(title string, of []*cobra.Command) {
		if len(of) == 0 {
			return
		}
		w.line("\n" + title + ":")
		for _, c := range of {
			column(w, c.Name(), c.Short, cmd.NamePadding()+4)
		}
	}
	groups := cmd.Groups()
	for _, g := range groups {
		show(g.Title, selected(cmd, func(c *cobra.Command) bool { return c.GroupID == g.ID }))
	}
	title := "Commands"
	if len(groups) > 0 {
		title = "More"
	}
	show(title, selected(cmd, func(c *cobra.Command) bool { return c.GroupID == "" && c.IsAvailableCommand() }))
	show("Topics", selected(cmd, func(c *cobra.Command) bool { return c.IsAdditionalHelpTopicCommand() && !c.Hidden }))
}

func selected(cmd *cobra.Command, is func(*cobra.Command) bool) []*cobra.Command {
	var of []*cobra.Command
	for _, c := range cmd.Commands() {
		if (c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() || c.Name() == "help") && is(c) {
			of = append(of, c)
		}
	}
	return of
}

// showFlags prints the flags in their groups, and returns how many it left out.
func showFlags(w *page, cmd *cobra.Command, whole bool) (hidden int) {
	hasCommon := false
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		_, is := f.Annotations[commonKey]
		hasCommon = hasCommon || is
	})
	groups := map[string][]*pflag.Flag{}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		_, is := f.Annotations[commonKey]
		switch {
		case f.Hidden || f.Name == "help":
		case hasCommon && !whole && !is:
			hidden++
		default:
			name := groupOther
			if of := f.Annotations[groupKey]; len(of) > 0 {
				name = of[0]
			}
			groups[name] = append(groups[name], f)
		}
	})
	for _, name := range groupOrder {
		if flags := groups[name]; len(flags) > 0 {
			w.line("\n" + name + ":")
			for _, f := range flags {
				showFlag(w, f)
			}
		}
	}
	if !cmd.HasParent() {
		return hidden
	}
	if !whole {
		w.line(fmt.Sprintf("\n%s --help lists the flags of all commands, such as --json and --quiet.", cmd.Root().Name()))
		return hidden
	}
	w.line("\nFlags of all commands:")
	cmd.InheritedFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			showFlag(w, f)
		}
	})
	return hidden
}

// showFlag prints a flag as pflag does, but wrapped.
func showFlag(w *page, f *pflag.Flag) {
	name, usage := flagText(f)
	column(w, name, usage, 30)
}

// flagText returns the name of a flag with its value, and its description.
func flagText(f *pflag.Flag) (name, usage string) {
	kind, usage := pflag.UnquoteUsage(f)
	name = "    --" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", --" + f.Name
	}
	switch kind {
	case "stringArray", "strings":
		kind = "string"
	case "count":
		kind = ""
	}
	if kind != "" {
		name += " " + kind
	}
	switch d := f.DefValue; {
	case d == "" || d == "0" || d == "0s" || d == "false" || d == "[]" || strings.Contains(usage, "(default"):
	case f.Value.Type() == "string":
		usage += fmt.Sprintf(" (default %q)", d)
	default:
		usage += fmt.Sprintf(" (default %s)", d)
	}
	return name, usage
}

// column prints a name, and a wrapped text that begins at a column.
func column(w *page, name, text string, at int) {
	w.WriteString("  " + name)
	used := 2 + utf8.RuneCountInString(name)
	if used > at-2 {
		w.line("")
		used = 0
	}
	for i, line := range wrap(text, max(w.columns-at, 20)) {
		if i > 0 {
			used = 0
		}
		w.line(strings.Repeat(" ", at-used) + line)
	}
}

// wrap breaks a text into lines of at most this many columns, at spaces.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return slices.Clip(append(lines, line))
}
