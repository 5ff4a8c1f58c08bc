//go:build !linux

package main

// wakeAtParentsEnd is for Linux alone: elsewhere a carrier that is stopped when
// its BEAM ends keeps the node's name until it is continued.
func wakeAtParentsEnd() error { return nil }
