package cli

import (
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
)

// openLog opens the log that the flags ask for.
func (a *app) openLog(cmd *cobra.Command) error {
	level := slog.LevelError
	switch {
	case a.global.verbose >= 2:
		level = slog.LevelDebug
	case a.global.verbose == 1 || cmd.Name() == "serve" && !a.global.quiet:
		level = slog.LevelInfo
	}
	var w io.Writer = a.con
	if a.global.logFile != "" {
		f, err := os.OpenFile(a.global.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return usageError{error: err}
		}
		w = f // closed by the end of the process: lines may come until then
	}
	opts := &slog.HandlerOptions{Level: level}
	switch a.global.logFormat {
	case "text":
		a.log = slog.New(slog.NewTextHandler(w, opts))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(w, opts))
	default:
		return usagef("--log-format %q: use text or json", a.global.logFormat)
	}
	return nil
}
