package cli

import "github.com/spf13/cobra"

// topics are pages of the help that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean, and whether to try again", Long: `Exit codes are a promise: scripts can decide by them what to do next.

    0  everything is verified
    1  an error that is none of the others
    2  a mistake in the command line or the configuration
    3  some sources can't be read, or changed: fix them, then run it again
    4  uploaded, but not verified: carload verify looks again
    5  the network or the service failed: run the same command again
    6  a mismatch: something is corrupt; don't repeat it, find out
    7  the token is not accepted
    8  a limit was reached
   11  another process holds the ledger or the store: run it again later
   28  a disk is full: make room, then run it again
  130  interrupted by Ctrl-C; the same command goes on (143: by SIGTERM)

Of several inputs the worst one decides. With --json each input has a code of
its own, and --report writes it for each path. To try again what can succeed:

  until carload up --files-from list; do
    [ $? -eq 5 ] || break
    sleep 60
  done`},
		{Use: "environment", Short: "Variables, and where files are", Long: `Every flag has a variable: --max-shard-bytes is CARLOAD_MAX_SHARD_BYTES. A list
has one value on each line. A flag wins over its variable, which wins over the
configuration file; "carload config show" prints which one won.

  CARLOAD_TOKEN           the API key; --token-file and --token-command name
                          other places for it, and "carload login" keeps it in
                          the system's keyring. It is never a flag.
  CARLOAD_KUBO_AUTH       what a Kubo node asks for (API.Authorizations)
  AWS_ACCESS_KEY_ID, …    credentials of buckets, as the programs of AWS find
                          them: the environment, ~/.aws, the machine's role
  HTTPS_PROXY, NO_PROXY   proxies
  NO_COLOR, TERM=dumb     carload uses no color; TERM=dumb also turns bars off

Files are where the system wants them, on Linux:

  ~/.config/carload/config.toml     settings, and the targets of --to
  ~/.local/state/carload/ledger.db  what was sent where (--ledger)
  ~/.local/share/carload/store      the built-in service's store (--store)
  ~/.cache/carload/spool            standard input while it is sent (--spool-dir)

XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_DATA_HOME and XDG_CACHE_HOME move them. On
macOS they are in ~/Library/Application Support/carload and ~/Library/Caches, on
Windows in %APPDATA%\carload and %LOCALAPPDATA%\carload.`},
		{Use: "json", Short: "The JSON lines that --json prints", Long: `With --json, standard output is one JSON object a line, and nothing else. Each
has "v" (1), "type" and "time" (RFC 3339, UTC). New versions add fields and types
and never change those that are there: skip what you don't know. Shards are
counted from 0, sizes are in bytes.

  {"v":1,"type":"file","path":"movie.mkv","root":"bafy…","code":0, …}

"file" says what became of an input, and its "code" is the exit code that it
alone would give; "summary" comes last. "progress" comes every five seconds.
"error" has a "message", a "code" and "hints"; mistakes in the command line are
such objects as well. docs/json.md lists all types.

  carload up --json DIR | jq -r 'select(.type=="file") | [.code,.root,.path] | @tsv'`},
		{Use: "filters", Short: "Which files of a directory are taken", Long: `Paths that are given are always taken. Of a directory, names that begin with a
dot are left out (--hidden takes them), and so are FIFOs, sockets and devices.

  --exclude PATTERN   leaves out what matches
  --include PATTERN   takes in what matches; if an --include comes first, only
                      what matches is taken

  --exclude-from FILE reads patterns from a file, one a line; those that begin
                      with ! take in again

They may be repeated and mixed, and the last one that matches decides. Patterns
are those of .gitignore; the flags have them without the !, and with {a,b} for
either of two:

  *.tmp      any name that ends in .tmp, at any depth
  /build     the entry "build" of the directory itself
  cache/     directories named cache, and all that is in them
  a/**/b     b below a at any depth

A file named .carloadignore has patterns for the directory that it is in and all
below, as a .gitignore does: the nearest one decides. --no-ignore doesn't read
them. Of what the patterns leave, files are taken by

  --min-size, --max-size   their size: 100kB, 2GiB
  --min-age, --max-age     their last change: 90m, 12h, 2d, 3w, 6M, 1y, or a date
  --one-file-system        their file system: that of the directory given

An entry is taken only if the flags, the files and the limits all take it.

  carload up --exclude '*.tmp' --exclude cache/ project
  carload up --include '*.jpg' --exclude 'draft-*' photos
  carload up --max-age 7d --max-size 2GiB photos
  carload cid --explain photos/2019/draft.jpg photos

The last one says whether that file is taken and which rule decides.
"carload up -n DIR" says what would be done. --skip-errors leaves out entries
that can't be read; --report writes down which.`},
	}
}
