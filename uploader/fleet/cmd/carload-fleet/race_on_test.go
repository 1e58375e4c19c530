//go:build race

package main_test

const raceEnabled = true // the race detector takes memory itself
