//go:build !linux

package main

import (
	"fmt"
	"os"
)

// setCloexecFrom does nothing: these systems have no single call for it.
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
