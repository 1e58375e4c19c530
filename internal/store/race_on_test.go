//go:build race

package store_test

// underRace tells tests that measure, or that only repeat what others cover,
// to leave it.
const underRace = true
