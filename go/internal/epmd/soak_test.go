//go:build soak

package epmd

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestSoakGenerated compares streams of new seeds with the stock epmd's answers,
// for SOAKTIME. Add a seed that fails to TestGenerated.
func TestSoakGenerated(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("SOAKTIME"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("epmd")
	if err != nil {
		t.Fatal(err)
	}
	streams, differ := 0, 0
	for end := time.Now().Add(length); time.Now().Before(end) && !t.Failed(); {
		seed, relaxed := rand.Uint64(), rand.IntN(2) == 0
		if !t.Run(fmt.Sprintf("relaxed=%v,seed=%d", relaxed, seed), func(t *testing.T) {
			compareGenerated(t, program, relaxed, seed, 200)
		}) {
			differ++
		}
		streams += 200
	}
	fmt.Printf("soak: %d generated streams compared with the stock epmd, %d times with a difference\n", streams, differ)
}
