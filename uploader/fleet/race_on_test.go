//go:build race

package fleet_test

const raceEnabled = true // its clocks do not reach as far as a simulation
