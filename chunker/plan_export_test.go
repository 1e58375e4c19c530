package chunker

import "crypto/sha256"

// SealPlan puts the checksum after a plan.
func SealPlan(body []byte) []byte {
	digest := sha256.Sum256(body)
	return append(body[:len(body):len(body)], digest[:]...)
}
