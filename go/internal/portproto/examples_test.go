package portproto

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// commands and events are the messages of the hex blocks of docs/PROTOCOL.md.
var commands = map[string]Command{
	"HELLO": Hello{OSPid: 42, EPMD: "/usr/bin/epmd", LogLevel: "info"},
	"REGISTER": Register{
		ID: 1, Name: "n2", Port: 45103, EPMD: netip.MustParseAddrPort("127.0.0.1:4369"),
		Bind: netip.MustParseAddr("192.0.2.2"), Highest: 6, Lowest: 5, NodeType: 77, Extra: []byte("handover/1"),
	},
	"CONNECT": Connect{ID: 7, Name: "n2", EPMD: netip.MustParseAddrPort("192.0.2.7:4369"), Timeout: 7 * time.Second},
	"CANCEL":  Cancel{ID: 7},
	"CLOSED":  Closed{Kind: Accepted, ID: 3},
	"STOP":    Stop{},
}

var events = map[string]Event{
	"HELLO_REPLY": HelloReply{FDSocket: "handover-4f2a61c95d0b3e7788a1c0ffee12d34b", Program: "handover 1"},
	"REFUSED":     Refused{UnknownVersion, "this is version 1"},
	"REGISTERED":  Registered{1, 3000000000, KindHandover},
	"ERROR":       Error{7, EPMDUnreachable, "dial tcp4 192.0.2.7:4369: connect: connection refused"},
	"EPMD_UP":     EPMDUp{KindStock},
	"EPMD_DOWN":   EPMDDown{"EPMD closed the heartbeat"},
	"LOG":         Log{"warning", "refused", []Field{{"peer", "192.0.2.7:4369"}, {"uid", int64(1000)}}},
}

// pageBlocks reads the hex blocks of the page.
func pageBlocks(t testing.TB) map[string][]byte {
	t.Helper()
	page, err := os.ReadFile("../../../docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]byte{}
	for _, m := range regexp.MustCompile("(?s)```hex (\\S+)\n(.*?)```").FindAllSubmatch(page, -1) {
		b, err := hex.DecodeString(strings.Join(strings.Fields(string(m[2])), ""))
		if err != nil {
			t.Fatalf("%s: %v", m[1], err)
		}
		blocks[string(m[1])] = b
	}
	return blocks
}

func encoded(t testing.TB, m message) []byte {
	t.Helper()
	b, err := AppendFrame(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return b[4:]
}

func TestPage(t *testing.T) {
	blocks := pageBlocks(t)
	for name, want := range commands {
		got, err := ParseCommand(blocks[name])
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
		samePage(t, name, blocks[name], encoded(t, want))
	}
	for name, want := range events {
		got, err := ParseEvent(blocks[name])
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
		samePage(t, name, blocks[name], encoded(t, want))
	}
	want := Connection{Connected, 7, netip.MustParseAddrPort("192.0.2.7:4369")}
	got, err := ParseConnection(blocks["CONNECTION"])
	if err != nil || got != want {
		t.Errorf("CONNECTION: %+v, %v; want %+v", got, err, want)
	}
	samePage(t, "CONNECTION", blocks["CONNECTION"], AppendConnection(nil, want))
	if id, err := ParseKeep(blocks["KEEP"]); err != nil || id != 17 {
		t.Errorf("KEEP: %d, %v", id, err)
	}
	samePage(t, "KEEP", blocks["KEEP"], AppendKeep(nil, 17))
}

func samePage(t *testing.T, name string, page, want []byte) {
	t.Helper()
	if bytes.Equal(page, want) {
		return
	}
	var b strings.Builder
	for i, c := range want {
		if i > 0 && i%32 == 0 {
			b.WriteByte('\n')
		} else if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(hex.EncodeToString([]byte{c}))
	}
	t.Errorf("the page's block should be\n```hex %s\n%s\n```", name, b.String())
}
