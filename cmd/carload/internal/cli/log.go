package cli

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"syscall"

	golog "github.com/ipfs/go-log/v2"
	"github.com/spf13/cobra"
	"go.uber.org/zap/zapcore"
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
		f, err := os.OpenFile(a.global.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NONBLOCK, 0o600) // don't wait for a reader of a FIFO
		if err != nil {
			return usageError{error: err}
		}
		w = f // the end of the process closes it, because lines may come until then
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
	takeLibraryLog(a.log)
	return nil
}

// takeLibraryLog sends the log of boxo and its dependencies to ours. By default
// they write to stderr in their own format.
func takeLibraryLog(log *slog.Logger) { golog.SetPrimaryCore(libraryLog{log.Handler()}) }

// libraryLog is a zapcore.Core over a slog.Handler.
type libraryLog struct{ h slog.Handler }

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Enabled implements zapcore.LevelEnabler.
func (l libraryLog) Enabled(level zapcore.Level) bool {
	return l.h.Enabled(context.Background(), slogLevel(level))
}

// With implements zapcore.Core.
func (l libraryLog) With(fields []zapcore.Field) zapcore.Core {
	return libraryLog{l.h.WithAttrs(attrs(fields))}
}

// Check implements zapcore.Core.
func (l libraryLog) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(e.Level) {
		return ce.AddCore(e, l)
	}
	return ce
}

// Write implements zapcore.Core.
func (l libraryLog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, slogLevel(e.Level), e.Message, 0)
	r.AddAttrs(slog.String("library", e.LoggerName))
	r.AddAttrs(attrs(fields)...)
	return l.h.Handle(context.Background(), r)
}

// Sync implements zapcore.Core.
func (l libraryLog) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]slog.Attr, 0, len(enc.Fields))
	for _, name := range slices.Sorted(maps.Keys(enc.Fields)) {
		out = append(out, slog.Any(name, enc.Fields[name]))
	}
	return out
}
