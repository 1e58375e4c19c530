package cli

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/pprof"

	"github.com/spf13/cobra"
)

// profiler writes what --cpuprofile and --memprofile ask for.
type profiler struct {
	cpu *os.File
	mem string
}

func (p *profiler) start(cpu, mem string) (err error) {
	p.mem = mem
	if cpu == "" {
		return nil
	}
	if p.cpu, err = os.Create(cpu); err != nil {
		return err
	}
	return pprof.StartCPUProfile(p.cpu)
}

func (p *profiler) stop() (err error) {
	if p.cpu != nil {
		pprof.StopCPUProfile()
		err = p.cpu.Close()
	}
	if p.mem != "" {
		f, errCreate := os.Create(p.mem)
		if errCreate != nil {
			return errors.Join(err, errCreate)
		}
		runtime.GC()
		err = errors.Join(err, pprof.WriteHeapProfile(f), f.Close())
	}
	return err
}

// openLog opens the log that the flags ask for.
func (a *app) openLog(cmd *cobra.Command) error {
	level := slog.LevelError
	switch {
	case a.global.verbose >= 2:
		level = slog.LevelDebug
	case a.global.verbose == 1 || cmd.Name() == "serve" && !a.global.quiet:
		level = slog.LevelInfo
	}
	var w io.Writer = consoleWriter{a.con}
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

// consoleWriter writes log lines, which are escaped, among the other lines.
type consoleWriter struct{ con *console }

// Write implements io.Writer.
func (w consoleWriter) Write(p []byte) (int, error) {
	w.con.mu.Lock()
	defer w.con.mu.Unlock()
	if w.con.above != nil {
		return w.con.above.Write(p)
	}
	return w.con.err.Write(p)
}
