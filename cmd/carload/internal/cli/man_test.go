package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command and topic has a page without troff warnings, with the same
// examples as the help.
func TestManPages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var out, errOut bytes.Buffer
	code := Main(t.Context(), []string{"man", filepath.Join(dir, "pages")}, Stdio{strings.NewReader(""), &out, &errOut}, []string{"HOME=" + t.TempDir()})
	if code != exitOK || out.Len() > 0 || errOut.Len() > 0 {
		t.Fatalf("exit code %d: %s %s", code, &out, &errOut)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "pages", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"carload.1", "carload-up.1", "carload-target-add.1", "carload-filters.7"} {
		if !slices.Contains(pages, filepath.Join(dir, "pages", want)) {
			t.Errorf("there is no %s among %d pages", want, len(pages))
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("there is no groff")
	}
	if out, err := exec.Command(groff, slices.Concat([]string{"-man", "-Kutf8", "-Tutf8", "-ww", "-z"}, pages)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	eachCommandBelow(newTestApp(t).rootCommand(), func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		page := filepath.Join(dir, "page")
		if err := os.WriteFile(page, manPage(c), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(groff, "-man", "-Kutf8", "-Tutf8", "-P-c", "-P-b", "-P-u", "-P-o", "-rLL=200n", page)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(c.Example) {
			if !strings.Contains(string(out), strings.TrimSpace(line)) {
				t.Errorf("%s: the page lacks %q", c.CommandPath(), line)
			}
		}
	})
}
