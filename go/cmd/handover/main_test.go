package main

import (
	"bytes"
	"testing"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"help"}, {"-h"}, {"Port"}} {
		var stderr bytes.Buffer
		if status := runSubcommand(t.Context(), args, &stderr); status != 2 || stderr.String() != usage {
			t.Errorf("%q: %d, %q", args, status, stderr.String())
		}
	}
	if status := runSubcommand(t.Context(), []string{"port", "4369"}, nil); status != 2 {
		t.Errorf("port with an argument: %d", status)
	}
}
