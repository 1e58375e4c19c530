//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package uploader

// fileKey identifies nothing where files have no inode and no time of change.
func fileKey(string) string { return "" }
