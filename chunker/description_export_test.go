package chunker

import "crypto/sha256"

// SealDescription appends the checksum to a description.
func SealDescription(body []byte) []byte {
	digest := sha256.Sum256(body)
	return append(body[:len(body):len(body)], digest[:]...)
}
