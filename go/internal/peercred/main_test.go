package peercred

import (
	"os"
	"testing"

	"handover/go/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.CleanEnvironment()
	os.Exit(m.Run())
}
