package testenv

import (
	"os"
	"strings"
	"testing"
)

// TestSince: what was opened since is there until it is closed; what was closed
// since makes no difference.
func TestSince(t *testing.T) {
	open := func() *os.File {
		f, err := os.Open("/dev/zero")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	early := open()
	before, err := OpenFiles()
	if err != nil {
		t.Skipf("skipped: %v", err)
	}
	late := open()
	_ = early.Close()
	if got, err := before.Since(); err != nil || len(got) != 1 || !strings.HasSuffix(got[0], " /dev/zero") {
		t.Errorf("%q, %v", got, err)
	}
	_ = late.Close()
	if got, err := before.Since(); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}
