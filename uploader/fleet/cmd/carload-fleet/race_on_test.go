//go:build race

package main_test

const raceEnabled = true // it takes memory of its own
