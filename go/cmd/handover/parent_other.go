//go:build !linux

package main

// wakeAtParentsEnd works on Linux only: elsewhere a carrier that is stopped when its BEAM ends
// keeps the node registered until it is continued.
func wakeAtParentsEnd() error { return nil }
