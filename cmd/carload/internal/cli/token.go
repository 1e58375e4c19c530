package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/carload/carload/uploader/nftstorage"
)

const (
	maxTokenBytes    = 16 << 10
	tokenCommandTime = time.Minute
	credentialName   = "carload.token" // in $CREDENTIALS_DIRECTORY, which systemd sets
)

// tokenFlags say where the API key comes from. No flag takes the key itself,
// because other users can see the arguments of a process.
type tokenFlags struct {
	file    string
	command string
}

// secret finds a secret: from --token-command, from --token-file, or, if around
// is set, from CARLOAD_TOKEN or the credentials that systemd passes. It is
// empty if there is none.
func (a *app) secret(ctx context.Context, f tokenFlags, around bool) (string, error) {
	var text, origin string
	var err error
	switch {
	case f.file != "" && f.command != "":
		return "", usagef("use --token-file or --token-command, not both")
	case f.command != "":
		origin = "--token-command"
		text, err = a.runTokenCommand(ctx, f.command)
	case f.file != "":
		origin = fmt.Sprintf("token file %q", f.file)
		text, err = a.readTokenFile(f.file)
	case around:
		var read func() (string, error)
		if origin, read = a.secretAround(); origin == "" {
			return "", nil
		}
		text, err = read()
	default:
		return "", nil
	}
	if err != nil {
		return "", usageError{error: err}
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return "", usagef("%s: it contains no token", origin)
	}
	if _, err := nftstorage.NewToken(text); err != nil {
		return "", usagef("%s: %w", origin, err)
	}
	return text, nil
}

// secretAround is the place that has the API key where no flag names another, and
// what reads it there. The place is empty if there is none.
func (a *app) secretAround() (origin string, read func() (string, error)) {
	if v := a.env[tokenVariable]; v != "" {
		return tokenVariable, func() (string, error) { return v, nil }
	}
	if dir := a.env["CREDENTIALS_DIRECTORY"]; dir != "" {
		path := filepath.Join(dir, credentialName)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Sprintf("credential %q", path), func() (string, error) { return a.readTokenFile(path) }
		}
	}
	return "", nil
}

func (a *app) readTokenFile(path string) (string, error) {
	p, info, err := readSmall(path, maxTokenBytes)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		a.con.warn("others can read the token in %q; run chmod 600 on it", path)
	}
	return string(p), nil
}

// runTokenCommand runs a program without a shell, and returns its output. It
// shows the program's standard error.
func (a *app) runTokenCommand(ctx context.Context, command string) (string, error) {
	argv, err := splitCommand(command)
	if err != nil {
		return "", fmt.Errorf("--token-command: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, tokenCommandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) //nolint:gosec // what the user asks to run
	out := &cappedBuffer{limit: maxTokenBytes}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdio.In, out, a.stdio.Err
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("--token-command %q: %w", argv[0], err)
	}
	return out.buf.String(), nil
}

// splitCommand splits a command line at spaces. Single and double quotes keep
// words together, and a backslash keeps the next character; there are no
// variables and no patterns.
func splitCommand(s string) ([]string, error) {
	var argv []string
	var word strings.Builder
	inWord := false
	quote := rune(0)
	escaped := false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				argv = append(argv, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		argv = append(argv, word.String())
	}
	if len(argv) == 0 {
		return nil, errors.New("it is empty")
	}
	return argv, nil
}

// cappedBuffer keeps the first bytes written to it.
type cappedBuffer struct {
	buf   bytes.Buffer // not embedded: io.Copy would bypass Write through its ReadFrom
	limit int
}

// Write implements io.Writer.
func (b *cappedBuffer) Write(p []byte) (int, error) {
	if room := b.limit - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
