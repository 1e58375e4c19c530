package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// In scripts, carload checks the JSON that it prints if these variables are
// set.
const (
	schemaVar = "SCHEMA_DIR"   // directory of the schemas
	seenVar   = "SCHEMAS_SEEN" // file for the findings, one line per JSON line
)

// schemaSetup makes the commands of a script check their output, and reports
// what they found when all scripts are done.
func schemaSetup(t *testing.T) (env map[string]string) {
	t.Helper()
	dir, err := filepath.Abs("../../../../docs/schema/v1")
	if err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(t.TempDir(), "seen")
	t.Cleanup(func() {
		found, err := os.ReadFile(seen)
		if err != nil {
			t.Fatal(err)
		}
		met := map[string]int{}
		for line := range strings.Lines(string(found)) {
			kind, fault, _ := strings.Cut(strings.TrimSpace(line), " ")
			met[kind]++
			if fault != "" {
				t.Error(line)
			}
		}
		if t.Failed() || testing.Short() {
			return
		}
		t.Logf("lines of JSON that keep to their schema: %v", met)
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			switch kind := strings.TrimSuffix(filepath.Base(f), ".json"); {
			case met[kind] > 0:
			case slices.Contains([]string{"console", "mending", "progress", "retry", "waiting"}, kind):
				// They take a browser, time, or a failing service: they have
				// their own tests, and TestSchemas compares their structs.
			default:
				t.Errorf("no script prints a line of type %s", kind)
			}
		}
	})
	return map[string]string{schemaVar: dir, seenVar: seen}
}

// checker is standard output that checks JSON lines.
type checker struct {
	io.Writer
	dir     string
	partial []byte
	found   bytes.Buffer
	known   map[string]*jsonschema.Schema
}

// checked returns standard output, with a checker if the test asks for it.
func checked() (out io.Writer, done func()) {
	dir, seen := os.Getenv(schemaVar), os.Getenv(seenVar)
	if dir == "" {
		return os.Stdout, func() {}
	}
	if info, err := os.Stdout.Stat(); err != nil || info.Mode()&os.ModeCharDevice != 0 {
		return os.Stdout, func() {} // a terminal must stay a terminal
	}
	c := &checker{Writer: os.Stdout, dir: dir, known: map[string]*jsonschema.Schema{}}
	return c, func() {
		c.reports(os.Args)
		if c.found.Len() == 0 {
			return
		}
		f, err := os.OpenFile(seen, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err == nil {
			_, err = f.Write(c.found.Bytes()) // in one write, because other processes append too
		}
		if err != nil {
			panic(err)
		}
		_ = f.Close()
	}
}

// Write implements io.Writer.
func (c *checker) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			if len(c.partial) < 1<<20 {
				c.partial = append(c.partial, b)
			}
			continue
		}
		c.line(c.partial)
		c.partial = c.partial[:0]
	}
	return c.Writer.Write(p)
}

// line checks a line of standard output.
func (c *checker) line(line []byte) {
	switch {
	case bytes.HasPrefix(line, []byte(`{"v":`)) && bytes.Contains(line[:min(len(line), 80)], []byte(`,"time":`)): // the lines of a ledger export have none
		var head struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(line, &head); err != nil {
			fmt.Fprintf(&c.found, "unknown %v: %s\n", err, line)
			return
		}
		c.check(head.Type, line)
	case bytes.HasPrefix(line, []byte(`{"path":`)):
		c.check("outcome", line)
	}
}

// reports checks the JSON lines of --report.
func (c *checker) reports(args []string) {
	for i, arg := range args {
		name, ok := strings.CutPrefix(arg, "--report=")
		if !ok && arg == "--report" && i+1 < len(args) {
			name, ok = args[i+1], true
		}
		if ext := filepath.Ext(name); !ok || ext != ".json" && ext != ".jsonl" {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the command failed before
		}
		for line := range bytes.Lines(text) {
			c.check("report", line)
		}
	}
}

// check checks a line against a schema, which must have every field of the
// line.
func (c *checker) check(kind string, line []byte) {
	err := func() error {
		s := c.known[kind]
		if s == nil {
			compiler := jsonschema.NewCompiler()
			compiler.AssertFormat()
			var err error
			if s, err = compiler.Compile(filepath.Join(c.dir, kind+".json")); err != nil {
				return err
			}
			c.known[kind] = s
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(line))
		if err != nil {
			return err
		}
		if err := s.Validate(v); err != nil {
			return err
		}
		for name := range v.(map[string]any) {
			if s.Properties[name] == nil {
				return fmt.Errorf("it has no field %q", name)
			}
		}
		return nil
	}()
	text := ""
	if err != nil {
		text = fmt.Sprintf(" %q is not as its schema says: %q", line, err.Error())
	}
	fmt.Fprintf(&c.found, "%s%s\n", kind, text)
}
