package peercred

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// defaultOverflowUID is the kernel's default, for a /proc that does not have the value.
const defaultOverflowUID = 65534

// vetMapped returns an error that wraps [ErrUnmapped] if uid, which the kernel reported, may
// mean any user that this user namespace does not map.
func vetMapped(uid uint32) error {
	if uid != overflowUID() {
		return nil
	}
	mapped, err := isMapped(uid)
	if err == nil && !mapped {
		err = ErrUnmapped
	}
	if err != nil {
		return fmt.Errorf("peercred: uid %d: %w", uid, err)
	}
	return nil
}

var overflowUID = sync.OnceValue(func() uint32 {
	// A /proc with subset=pid does not have it.
	b, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil {
		return defaultOverflowUID
	}
	uid, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return defaultOverflowUID
	}
	return uint32(uid)
})

// isMapped reports whether this user namespace maps that uid.
func isMapped(uid uint32) (bool, error) {
	b, err := os.ReadFile("/proc/self/uid_map")
	if errors.Is(err, os.ErrNotExist) {
		if _, statErr := os.Stat("/proc/self"); statErr == nil {
			return true, nil // a kernel without user namespaces
		}
		return false, fmt.Errorf("%w (no /proc: whether it is cannot be told)", ErrUnmapped)
	}
	if err != nil {
		return false, err
	}
	// Lines of "first first-outside count".
	for line := range strings.Lines(string(b)) {
		var first, outside, count uint64
		if _, err := fmt.Sscan(line, &first, &outside, &count); err != nil {
			return false, fmt.Errorf("/proc/self/uid_map: %q: %w", line, err)
		}
		if uint64(uid) >= first && uint64(uid)-first < count {
			return true, nil
		}
	}
	return false, nil
}
