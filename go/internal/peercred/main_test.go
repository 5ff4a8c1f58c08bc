package peercred

import (
	"os"
	"testing"

	"handover/go/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Clean()
	os.Exit(m.Run())
}
