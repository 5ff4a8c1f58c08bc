package epmdproto

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// ValidName says whether an alive name can be sent: UTF-8, 1 to 255 characters,
// no NUL. The error wraps ErrName.
func ValidName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty", ErrName)
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("%w: has a NUL", ErrName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: not UTF-8", ErrName)
	case utf8.RuneCountInString(name) > MaxNameChars:
		return fmt.Errorf("%w: more than %d characters", ErrName, MaxNameChars)
	}
	return nil
}

// ValidPath says whether a path may name a handover socket: absolute, at most
// 107 bytes, no NUL, no ".." element, never in the abstract namespace (which
// begins with a NUL, and with "@" as it is often written). The error wraps
// ErrPath.
func ValidPath(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("%w: empty", ErrPath)
	case strings.IndexByte(p, 0) >= 0:
		return fmt.Errorf("%w: has a NUL", ErrPath)
	case len(p) > MaxPath:
		return fmt.Errorf("%w: %d bytes, at most %d fit", ErrPath, len(p), MaxPath)
	case !path.IsAbs(p):
		return fmt.Errorf("%w: %q is not absolute", ErrPath, p)
	}
	for element := range strings.SplitSeq(p, "/") {
		if element == ".." {
			return fmt.Errorf("%w: %q has a .. element", ErrPath, p)
		}
	}
	return nil
}
