//go:build race

package store_test

// underRace lets tests skip themselves that measure, or that only repeat what
// others cover.
const underRace = true
