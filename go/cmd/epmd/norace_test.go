//go:build !race

package main

// raceEnabled makes the large tests smaller.
const raceEnabled = false
