package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/bucket"
	"github.com/carload/carload/uploader/kubo"
	"github.com/carload/carload/uploader/nftstorage"
)

// Exit codes. They are a promise: scripts use them to decide whether to try
// again.
const (
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2
	exitSources     = 3
	exitUnverified  = 4
	exitTemporary   = 5
	exitMismatch    = 6
	exitAuth        = 7
	exitLimit       = 8
	exitLocked      = 11
	exitNoSpace     = 28
	exitInterrupted = 130
	exitTerminated  = 143
)

// severity orders the codes. With several inputs, the worst one counts.
var severity = []int{
	exitOK, exitSources, exitUnverified, exitTemporary, exitLimit, exitOther, exitUsage,
	exitLocked, exitNoSpace, exitAuth, exitMismatch, exitInterrupted, exitTerminated,
}

func worse(a, b int) int {
	if slices.Index(severity, b) > slices.Index(severity, a) {
		return b
	}
	return a
}

// usageError is a mistake on the command line. help is the command that
// explains the right usage, if there is one.
type usageError struct {
	error
	help string
}

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{error: fmt.Errorf(format, args...)} }

// hinted is an error with hints that say what to type next.
type hinted struct {
	error
	hints []string
}

func (e hinted) Unwrap() error { return e.error }

func withHint(err error, hints ...string) error {
	if err == nil || len(hints) == 0 {
		return err
	}
	return hinted{err, hints}
}

// coded is an error with a known exit code.
type coded struct {
	error
	code int
}

func (e coded) Unwrap() error { return e.error }

// sourceError is a failure to read a path that the user gave.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// interrupted is the end by a signal.
type interrupted struct{ signal os.Signal }

func (e interrupted) Error() string { return fmt.Sprintf("stopped by %s", e.signal) }

func (e interrupted) code() int {
	if e.signal == syscall.SIGTERM {
		return exitTerminated
	}
	return exitInterrupted
}

// exitCode decides by type, never by text.
func exitCode(err error) int {
	var (
		known   coded
		usage   usageError
		signal  interrupted
		source  sourceError
		reading *uploader.SourceError
		api     *nftstorage.APIError
		network *uploader.NetworkError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &signal):
		return signal.code()
	case errors.As(err, &known):
		return known.code
	case errors.As(err, &usage), errors.Is(err, splitter.ErrBlockTooLarge):
		return exitUsage
	case errors.Is(err, uploader.ErrRootMismatch), errors.Is(err, car.ErrCorrupt), errors.Is(err, car.ErrMalformed), errors.Is(err, uploader.ErrLedgerDamaged):
		return exitMismatch
	case errors.Is(err, uploader.ErrUnauthorized):
		return exitAuth
	case errors.As(err, &network):
		return exitTemporary // ignore the errors inside: local errors use the same numbers
	case isNoSpace(err), errors.As(err, &api) && api.Status == http.StatusInsufficientStorage:
		return exitNoSpace
	case errors.Is(err, store.ErrLocked), errors.Is(err, uploader.ErrLedgerLocked), errors.Is(err, unpack.ErrBusy):
		return exitLocked
	case errors.Is(err, uploader.ErrTooLarge), errors.Is(err, uploader.ErrLimit), errors.Is(err, car.ErrTooDeep), errors.Is(err, uploader.ErrQuotaExceeded):
		return exitLimit
	case errors.Is(err, uploader.ErrSourceChanged), errors.Is(err, chunker.ErrRenamed), errors.As(err, &source), errors.As(err, &reading):
		return exitSources
	case errors.Is(err, uploader.ErrIncomplete):
		return exitUnverified
	case errors.Is(err, uploader.ErrUnavailable), errors.As(err, &api) && mayPass(api):
		return exitTemporary
	}
	return exitOther
}

// mayPass reports whether the service may accept the same request later.
func mayPass(e *nftstorage.APIError) bool {
	again, _ := e.Retry()
	return again
}

func isNoSpace(err error) bool {
	var database interface{ Code() int } // SQLite's extended result code
	if errors.As(err, &database) {
		const full, cannotGrowSharedMemory = 13, 4874
		switch database.Code() {
		case full, cannotGrowSharedMemory:
			return true
		}
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// blame gives an error the cause that it does not name: the signal that
// interrupted the work, or the store of the built-in service. That service runs
// in this process, so its failures are not network failures.
func (a *app) blame(err error) error {
	err = a.life.blame(err)
	var api *nftstorage.APIError
	if a.embedded && errors.As(err, &api) && api.Status >= http.StatusInternalServerError && exitCode(err) == exitTemporary {
		return withHint(coded{err, exitOther}, "the built-in service could not use its store: -v shows why; carload service fsck checks it")
	}
	return err
}

// hintsFor says what to do about an error.
func hintsFor(err error) []string {
	var hints []string
	for e := err; e != nil; {
		var h hinted
		if !errors.As(e, &h) {
			break
		}
		hints = append(hints, h.hints...)
		e = h.error
	}
	var api *nftstorage.APIError
	var usage usageError
	if errors.As(err, &usage) && usage.help != "" {
		hints = append(hints, usage.help)
	}
	switch {
	case len(hints) > 0:
	case errors.Is(err, syscall.EMFILE):
		hints = append(hints, "raise the limit on open files (ulimit -n), or lower --transfers")
	case errors.Is(err, splitter.ErrBlockTooLarge):
		hints = append(hints, "raise --max-shard-bytes, or make smaller blocks with --chunker size-N")
	case errors.As(err, &api) && api.Status == http.StatusRequestEntityTooLarge:
		hints = append(hints, "lower --max-shard-bytes")
	case errors.Is(err, uploader.ErrTooLarge):
		hints = append(hints, "--max-upload-bytes sets the limit; the service may have its own")
	case errors.Is(err, uploader.ErrLimit):
		hints = append(hints, "send it to a target that accepts it, or build it again with smaller blocks, another --profile or another --max-shard-bytes")
	case errors.Is(err, uploader.ErrQuotaExceeded):
		hints = append(hints, "make room at the service with carload rm, or ask its operator for a larger quota")
	case errors.As(err, &api) && api.Status == http.StatusNotFound && api.Code == "" && !errors.Is(err, unpack.ErrMissing):
		hints = append(hints, "the service has no such path: check that --endpoint is the address of its API")
	case errors.Is(err, uploader.ErrUnauthorized) && (errors.As(err, new(*bucket.Error)) || errors.Is(err, bucket.ErrNoCredentials)):
		hints = append(hints, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile in ~/.aws")
	case errors.Is(err, uploader.ErrUnauthorized) && errors.As(err, new(*kubo.RPCError)):
		hints = append(hints, "check the secret in CARLOAD_KUBO_AUTH, or that of the target (carload target show)")
	case errors.Is(err, uploader.ErrUnauthorized):
		hints = append(hints, "check the key: carload takes it from CARLOAD_TOKEN, --token-file, --token-command or carload login")
	case errors.Is(err, uploader.ErrSourceChanged):
		hints = append(hints, "run the same command again when nothing writes to the file any more")
	case errors.Is(err, uploader.ErrUnavailable):
		hints = append(hints, "run the same command again: carload does not send again what has arrived")
	case errors.As(err, new(x509.UnknownAuthorityError)):
		hints = append(hints, "if the service has its own certificate authority, pass its certificate with --ca-cert")
	case errors.As(err, new(x509.HostnameError)):
		hints = append(hints, "use the name in the certificate for --endpoint")
	case errors.As(err, new(x509.CertificateInvalidError)):
		hints = append(hints, "if the certificate of the service is valid, check the clock of this machine")
	case errors.Is(err, http.ErrSchemeMismatch):
		hints = append(hints, "the service speaks plain HTTP there: check the port and scheme of --endpoint")
	case errors.Is(err, store.ErrLocked):
		hints = append(hints, "another carload is using it: wait, or pass its address as --endpoint if it is carload serve, or use another --store")
	case errors.Is(err, store.ErrIndexMissing), errors.Is(err, store.ErrRebuilding):
		hints = append(hints, "rebuild the index from the shards with carload service fsck --rebuild")
	case errors.Is(err, store.ErrUnfinished):
		hints = append(hints, "open it once where carload can write it, with carload service status")
	case errors.Is(err, store.ErrKeeps):
		hints = append(hints, "give serve --discard its own store with --store")
	case errors.Is(err, store.ErrDiscards):
		hints = append(hints, "open it with carload serve --discard, or use another --store")
	}
	return hints
}

// classify turns the errors of the flag library into usage errors.
func classify(err error) error {
	// cobra has no types for these.
	for _, prefix := range []string{"accepts ", "requires at least ", "if any flags in the group ", "at least one of the flags "} {
		if strings.HasPrefix(err.Error(), prefix) {
			return usageError{err, "carload help"}
		}
	}
	return err
}

// fail prints an error with its hints and returns the exit code.
func (c *console) fail(err error) int {
	var said silent
	if errors.As(err, &said) {
		return said.code
	}
	err = classify(err)
	code := exitCode(err)
	c.errorLine(err, code)
	return code
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return usageError{fmt.Errorf("give %s", what), helpFor(cmd)}
	}
}

// noArgs is for commands without arguments, and for those that only have
// subcommands.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return usageError{fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), suggestion(args[0], verbs(cmd))), helpFor(cmd)}
	}
	return usageError{fmt.Errorf("%q takes no arguments, such as %q", cmd.CommandPath(), args[0]), helpFor(cmd)}
}

// helpFor returns the command that explains another one.
func helpFor(cmd *cobra.Command) string {
	return "carload help" + strings.TrimPrefix(cmd.CommandPath(), "carload")
}
