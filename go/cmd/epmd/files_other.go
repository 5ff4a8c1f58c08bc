//go:build !linux

package main

import (
	"fmt"
	"os"
)

// setCloexecFrom has no one call to do it with, and does nothing.
func setCloexecFrom(uint) error { return nil }

func memfd() (*os.File, error) {
	f, err := os.CreateTemp("", "epmd-state-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("state: %w", err)
	}
	return f, nil
}
