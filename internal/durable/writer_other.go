//go:build !linux

package durable

import "os"

func setDirect(*os.File, bool) bool { return false }

func isMisaligned(error) bool { return false }

func startWriteback(*os.File, int64, int64) {}

// Evict does nothing on this system.
func Evict(*os.File) {}
