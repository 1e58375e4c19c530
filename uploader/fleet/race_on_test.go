//go:build race

package fleet_test

const raceEnabled = true // the race detector's clocks do not reach as far as a simulation
