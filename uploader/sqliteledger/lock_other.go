//go:build !unix

package sqliteledger

import "os"

// tryLock locks nothing: this system has no locks that end with their process.
func tryLock(*os.File, bool) (bool, error) { return true, nil }

// tryClaim claims nothing, for the same reason.
func tryClaim(*os.File, int64) (bool, error) { return true, nil }

func unclaim(*os.File, int64) error { return nil }

// writable leaves it to SQLite to find out.
func writable(string) error { return nil }
