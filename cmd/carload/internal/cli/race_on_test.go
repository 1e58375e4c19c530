//go:build race

package cli_test

// underRace tells tests that measure to leave it.
const underRace = true
