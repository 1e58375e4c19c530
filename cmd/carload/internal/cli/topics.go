package cli

import "github.com/spf13/cobra"

// topics are help pages that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean, and whether to retry", Long: `Exit codes are a promise: scripts can use them to decide what to do next.

    0  everything is verified
    1  any other error
    2  a mistake on the command line or in the configuration
    3  some sources could not be read, or changed: fix them, then run it again
    4  the target does not have all blocks, or carload could not verify that it
       has them: upload again, or check again with carload verify
    5  the network or the service failed: run the same command again
    6  a mismatch: something is corrupt; don't retry, find the cause
    7  the service did not accept the token
    8  a limit was reached
   11  another process has locked the ledger or the store: run it again later
   28  a disk is full: make room, then run it again
  130  interrupted by Ctrl-C; the same command continues (143: by SIGTERM)

With several inputs, the worst code counts; from mild to severe they are 3, 4,
5, 8, 1, 2, 11, 28, 7, 6, 130 and 143. With --json each input has its own code,
and --report writes one for each path. To retry while that can help:

  until carload up --files-from list; do
    [ $? -eq 5 ] || break
    sleep 60
  done`},
		{Use: "environment", Short: "Environment variables, and where files are", Long: `Every flag has a variable: CARLOAD_MAX_SHARD_BYTES for --max-shard-bytes. A list
has one value per line. A flag overrides its variable, which overrides the
configuration file; "carload config show --origin" shows where a value comes
from.

  CARLOAD_TOKEN           the API key; --token-file and --token-command name
                          other places for it, and "carload login" stores it
                          in the system's keyring. No flag takes the key.
  CARLOAD_KUBO_AUTH       the secret of a Kubo node (API.Authorizations)
  AWS_ACCESS_KEY_ID, …    credentials for buckets, which carload finds where the
                          AWS tools do: in the environment, ~/.aws, or the role
                          of the machine
  HTTPS_PROXY, NO_PROXY   proxies
  NO_COLOR, TERM=dumb     carload uses no color; TERM=dumb also turns bars off

Files are in the usual places of the system. On Linux:

  ~/.config/carload/config.toml     settings, and the targets of --to
  ~/.local/state/carload/ledger.db  what was sent where (--ledger)
  ~/.local/share/carload/store      the store of the built-in service (--store)
  ~/.cache/carload/spool            standard input while it is sent (--spool-dir)

XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_DATA_HOME and XDG_CACHE_HOME move them. On
macOS they are in ~/Library/Application Support/carload and ~/Library/Caches, on
Windows in %APPDATA%\carload and %LOCALAPPDATA%\carload.`},
		{Use: "json", Short: "The JSON lines that --json prints", Long: `With --json, standard output has one JSON object per line, and nothing else.
Each has "v" (1), "type" and "time" (RFC 3339, UTC). New versions may add fields
and types but never change existing ones: skip what you don't know. Shards are
numbered from 0; sizes are in bytes.

  {"v":1,"type":"file","path":"movie.mkv","root":"bafy…","code":0, …}

"file" is the outcome of an input, and its "code" is the exit code for this
input alone. "summary" comes last, and "progress" every five seconds. "error"
has a "message", a "code" and "hints", also for mistakes on the command line.
docs/json.md lists all types.

  carload up --json DIR | jq -r 'select(.type=="file") | [.code,.root,.path] | @tsv'`},
		{Use: "filters", Short: "Which files of a directory carload takes", Long: `carload always takes the paths that you give. Inside a directory it leaves out
names that begin with a dot (--hidden takes them), and FIFOs, sockets and
devices.

  --exclude PATTERN   leaves out what matches
  --include PATTERN   takes what matches; if an --include comes first, carload
                      takes only what matches

  --exclude-from FILE reads patterns from a file, one per line; a pattern that
                      begins with ! takes what matches

You can repeat and mix these flags; the last pattern that matches decides.
Patterns work as in .gitignore; in the flags they have no !, but {a,b} stands
for either of the two:

  *.tmp      any name that ends in .tmp, at any depth
  /build     the entry "build" of the directory itself
  cache/     directories named cache, and everything inside
  a/**/b     b below a, at any depth

A file named .carloadignore has patterns for its directory and everything below,
as a .gitignore does: the nearest file decides. --no-ignore ignores these files.
Of the files that the patterns leave, carload takes those within these limits:

  --min-size, --max-size   size: 100kB, 2GiB
  --min-age, --max-age     time since the last change: 90m, 12h, 2d, 3w, 6M, 1y,
                           or a date
  --one-file-system        the file system of the given directory

carload takes an entry only if the flags, the files and the limits all allow it.

  carload up --exclude '*.tmp' --exclude cache/ project
  carload up --include '*.jpg' --exclude 'draft-*' photos
  carload up --max-age 7d --max-size 2GiB photos
  carload cid --explain photos/2019/draft.jpg photos

The last command says whether carload would take that file, and which rule
decides. "carload up -n DIR" says what an upload would do. --skip-errors leaves
out entries that can't be read; --report lists them.`},
	}
}
