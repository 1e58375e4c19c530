//go:build race

package service_test

// underRace lets tests skip themselves that measure, or that only repeat what
// others cover.
const underRace = true
