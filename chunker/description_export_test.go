package chunker

import "crypto/sha256"

// SealDescription puts the checksum after a description.
func SealDescription(body []byte) []byte {
	digest := sha256.Sum256(body)
	return append(body[:len(body):len(body)], digest[:]...)
}
