//go:build race

package cli_test

// underRace makes tests that measure skip the measurement.
const underRace = true
