//go:build !linux

package durable

// SyncAll returns false: this system cannot tell when a whole file system is
// durable.
func SyncAll(string) (bool, error) { return false, nil }
