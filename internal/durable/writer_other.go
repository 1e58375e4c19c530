//go:build !linux

package durable

import "os"

func setDirect(*os.File, bool) bool { return false }

func isMisaligned(error) bool { return false }

func startWriteback(*os.File, int64, int64) {}

// Evict asks the system to forget what it keeps in memory of a file, so that what
// is read next comes from the disk. This system is not asked.
func Evict(*os.File) {}
