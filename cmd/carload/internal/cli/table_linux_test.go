package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// On a terminal, lists have a heading, columns, sizes for people and local
// time; elsewhere they stay as they were.
func TestTablesOnATerminal(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "photos"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"photos/a.jpg": 3 << 20, "photos/a much longer name.jpg": 5} {
		if err := os.WriteFile(filepath.Join(home, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := newCommand(t, home, "up", "-Q", "photos", "photos/a.jpg").Output()
	roots := strings.Fields(string(out))
	if err != nil || len(roots) != 2 {
		t.Fatalf("%q: %v", out, err)
	}
	if out, err := newCommand(t, home, "pack", "photos", "-o", "shards").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := newCommand(t, home, "target", "add", "a-long-name", "dir:shards").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const when = `\d{4}-\d\d-\d\d \d\d:\d\d`
	for _, tt := range []struct {
		args   []string
		people string
		plain  string
	}{
		{
			[]string{"list"},
			`^CID {56}  STATE      SIZE  CREATED           NAME\nbafy\w+  pinned  3.0 MiB  ` + when + `  (photos|a\.jpg)\n`,
			`^bafy\w+\tpinned\t\d+\t[\dT:-]+Z\t`,
		},
		{
			append([]string{"status"}, roots...), `^CID {56}  STATE   SHARDS\n(bafy\w+  pinned       1\n){2}$`,
			`^(bafy\w+\tpinned\t1\n){2}$`,
		},
		{
			[]string{"ls", "shards"},
			`^CID {56}  TYPE     SIZE  PATH\nbafy\w+  dir +0 B  \nbafk\w+  file +5 B  a much longer name.jpg\nbafy\w+  file  3.0 MiB  a.jpg\n`,
			`^bafy\w+\tdir\t0\t\nbafk\w+\tfile\t5\ta much longer name.jpg\nbafy\w+\tfile\t3145728\ta.jpg\n$`,
		},
		{[]string{"ledger", "list"}, `^CID {56}  STATE     RECEIPTS  LARGEST SHARD  BEGUN             TARGET\n`, `^bafy\w+\tverified\t1\t100000000\t`},
		{[]string{"target", "list"}, `^NAME         TYPE  WHERE\na-long-name  dir   dir:/`, `^a-long-name\tdir\tdir:/`},
		{[]string{"key", "list"}, `^ID  USER +MADE              NAME\n 1  \w+ +` + when + `  carload`, `^1\t\w+\t\d{4}-\d\d-\d\d\tcarload`},
	} {
		cmd := newCommand(t, home, tt.args...)
		cmd.Env = append(cmd.Env, "TZ=Pacific/Chatham")
		if got := newTerminal(t, 100, 30).run(cmd); !regexp.MustCompile(tt.people).MatchString(got) {
			t.Errorf("%v on a terminal:\n%s\nwant %s", tt.args, got, tt.people)
		}
		got, err := newCommand(t, home, tt.args...).Output()
		if err != nil || !regexp.MustCompile(tt.plain).Match(got) {
			t.Errorf("%v: %v\n%s\nwant %s", tt.args, err, got, tt.plain)
		}
	}
}
