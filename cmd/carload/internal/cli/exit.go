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

// Exit codes. They are a promise: scripts decide by them whether to try again.
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

// severity orders the codes: of several inputs the worst one counts.
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

// usageError is a mistake in how the command was called. help is the command
// that explains it, if there is one.
type usageError struct {
	error
	help string
}

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{error: fmt.Errorf(format, args...)} }

// hinted is an error with what to type next.
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

// coded is an error whose exit code is known already.
type coded struct {
	error
	code int
}

func (e coded) Unwrap() error { return e.error }

// sourceError is a failure to read what the user named.
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
		return exitTemporary // whatever is in it: its numbers are those of local errors, too
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

// mayPass tells a refusal that the service may think better of.
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

// blame gives an error the cause that it does not name: the signal that cut the
// work short, or the store of the built-in service. That service runs in this
// process, so that what it fails by is no failure of a network.
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
		hints = append(hints, "let it have more open files (ulimit -n), or give fewer --transfers")
	case errors.Is(err, splitter.ErrBlockTooLarge):
		hints = append(hints, "give a larger --max-shard-bytes, or smaller blocks with --chunker size-N")
	case errors.As(err, &api) && api.Status == http.StatusRequestEntityTooLarge:
		hints = append(hints, "give a smaller --max-shard-bytes")
	case errors.Is(err, uploader.ErrTooLarge):
		hints = append(hints, "--max-upload-bytes sets the limit; the service may have one of its own")
	case errors.Is(err, uploader.ErrLimit):
		hints = append(hints, "send it to a target that takes it, or make it anew with smaller blocks, another --profile or another --max-shard-bytes")
	case errors.Is(err, uploader.ErrQuotaExceeded):
		hints = append(hints, "make room at the service with carload rm, or ask its operator for a larger quota")
	case errors.As(err, &api) && api.Status == http.StatusNotFound && api.Code == "":
		hints = append(hints, "there is no such path at the service: see whether --endpoint is the address of its API")
	case errors.Is(err, uploader.ErrUnauthorized) && (errors.As(err, new(*bucket.Error)) || errors.Is(err, bucket.ErrNoCredentials)):
		hints = append(hints, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile in ~/.aws")
	case errors.Is(err, uploader.ErrUnauthorized) && errors.As(err, new(*kubo.RPCError)):
		hints = append(hints, "check the secret in CARLOAD_KUBO_AUTH, or that of the target (carload target show)")
	case errors.Is(err, uploader.ErrUnauthorized):
		hints = append(hints, "check the token in CARLOAD_TOKEN, --token-file or --token-command")
	case errors.Is(err, uploader.ErrSourceChanged):
		hints = append(hints, "run the same command again when the file is no longer written to")
	case errors.Is(err, uploader.ErrUnavailable):
		hints = append(hints, "run the same command again: what has arrived is not sent again")
	case errors.As(err, new(x509.UnknownAuthorityError)):
		hints = append(hints, "if the service has a certificate authority of its own, name its certificate by --ca-cert")
	case errors.As(err, new(x509.HostnameError)):
		hints = append(hints, "give --endpoint with the name that the certificate is for")
	case errors.As(err, new(x509.CertificateInvalidError)):
		hints = append(hints, "if the service's certificate is in order, see whether this machine's clock is right")
	case errors.Is(err, http.ErrSchemeMismatch):
		hints = append(hints, "the service speaks plain HTTP there: see whether --endpoint has the right port and scheme")
	case errors.Is(err, store.ErrLocked):
		hints = append(hints, "another carload has it: wait for it, or give it as --endpoint if it is carload serve, or name another --store")
	case errors.Is(err, store.ErrIndexMissing), errors.Is(err, store.ErrRebuilding):
		hints = append(hints, "make the index anew from the shards by carload service fsck --rebuild")
	case errors.Is(err, store.ErrUnfinished):
		hints = append(hints, "open it once where it can be written, by carload service status")
	case errors.Is(err, store.ErrKeeps):
		hints = append(hints, "give serve --discard a store of its own by --store")
	case errors.Is(err, store.ErrDiscards):
		hints = append(hints, "open it by carload serve --discard, or name another --store")
	}
	return hints
}

// classify gives the errors of the flag library their place.
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

// noArgs is for commands that stand alone, and for those that only have others
// below them.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return usageError{fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), suggestion(args[0], verbs(cmd))), helpFor(cmd)}
	}
	return usageError{fmt.Errorf("%q takes no arguments, such as %q", cmd.CommandPath(), args[0]), helpFor(cmd)}
}

// helpFor is the command that explains another one.
func helpFor(cmd *cobra.Command) string {
	return "carload help" + strings.TrimPrefix(cmd.CommandPath(), "carload")
}
