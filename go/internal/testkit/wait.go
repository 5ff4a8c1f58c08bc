package testkit

import (
	"testing"
	"time"
)

// Patience bounds every wait of the tests. Only a test that fails waits that long.
const Patience = time.Minute

// Pauses between two checks of a condition.
const (
	minPause = time.Millisecond
	maxPause = 20 * time.Millisecond
)

// Within waits for a condition, and reports whether it became true within [Patience].
func Within(condition func() bool) bool {
	end := time.Now().Add(Patience)
	for pause := minPause; !condition(); pause = min(2*pause, maxPause) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// WaitFor waits for a condition, and fails the test if it does not become true within
// [Patience].
func WaitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	if !Within(condition) {
		t.Fatalf("waited %v for %s", Patience, what)
	}
}
