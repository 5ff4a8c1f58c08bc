package epmdproto

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ValidName returns nil if an alive name can be sent: it is UTF-8, has 1 to 255 characters and
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

// NewSocketName returns a new random name for a handover socket.
func NewSocketName() string {
	var bits [16]byte
	rand.Read(bits[:]) // never fails
	return SocketPrefix + hex.EncodeToString(bits[:])
}

// ValidSocketName returns nil if name is that of a handover socket: [SocketPrefix] and 32
// hexadecimal digits in lower case. The name is in the abstract namespace of Unix sockets
// (unix(7)), and does not contain the leading NUL. The error wraps ErrSocketName.
func ValidSocketName(name string) error {
	digits, ok := strings.CutPrefix(name, SocketPrefix)
	if !ok || len(digits) != SocketNameSize-len(SocketPrefix) || strings.Trim(digits, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: %.60q is not %s and %d hexadecimal digits", ErrSocketName, name, SocketPrefix,
			SocketNameSize-len(SocketPrefix))
	}
	return nil
}
