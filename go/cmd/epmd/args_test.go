package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestArgs(t *testing.T) {
	env := map[string]string{"ERL_EPMD_PORT": "5000", "ERL_EPMD_ADDRESS": "192.0.2.1", "ERL_EPMD_RELAXED_COMMAND_CHECK": ""}
	getenv := func(key string) (string, bool) { v, ok := env[key]; return v, ok }
	o, err := parseArgs(strings.Fields("-d -debug -packet_timeout 5 -delay_accept 1 -delay_write 2 -daemon -systemd"), getenv)
	want := options{addresses: "192.0.2.1", port: 5000, debug: 2, daemon: true, systemd: true, relaxed: true,
		packetTimeout: 5 * time.Second, delayAccept: time.Second, delayWrite: 2 * time.Second}
	if err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = parseArgs(strings.Fields("-address 192.0.2.2 -port 6000 -stop n"), getenv); err != nil ||
		o.addresses != "192.0.2.2" || o.port != 6000 || o.command != "-stop" || o.name != "n" {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range []string{"-port", "-port 0", "-port 65536", "-port x", "-port -1", "-packet_timeout 0", "-address",
		"-names -port 5", "-kill x", "-stop", "-stop a b", "-nonsense", "names"} {
		if _, err := parseArgs(strings.Fields(args), getenv); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
	env["ERL_EPMD_PORT"] = "nonsense"
	if _, err := parseArgs(nil, getenv); err == nil || !strings.Contains(err.Error(), "ERL_EPMD_PORT") {
		t.Errorf("a bad ERL_EPMD_PORT: %v", err)
	}
}
