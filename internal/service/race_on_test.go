//go:build race

package service_test

// underRace tells tests that measure, or that only repeat what others cover,
// to leave it.
const underRace = true
