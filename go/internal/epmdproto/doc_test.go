package epmdproto

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// docExamples reads the "```hex NAME" blocks of docs/PROTOCOL.md.
func docExamples(t testing.TB) map[string][]byte {
	t.Helper()
	page, err := os.ReadFile("../../../docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := make(map[string][]byte)
	for _, m := range regexp.MustCompile("(?s)```hex (\\S+)\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		b, err := hex.DecodeString(strings.Join(strings.Fields(m[2]), ""))
		if err != nil {
			t.Fatalf("%s: %v", m[1], err)
		}
		examples[m[1]] = b
	}
	return examples
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestDocExamples decodes each example of the page and encodes it again.
func TestDocExamples(t *testing.T) {
	again := map[string]func(t *testing.T, b []byte) []byte{
		"ALIVE2_REQ": func(t *testing.T, b []byte) []byte {
			r := must[Alive2Req](t)(ParseAlive2(b[2:]))
			want := Alive2Req{Port: 45103, NodeType: 77, Highest: 6, Lowest: 5, Name: "n2", Extra: []byte(Extra)}
			if !reflect.DeepEqual(r, want) || !r.TakesHandovers() {
				t.Errorf("got %+v", r)
			}
			return must[[]byte](t)(r.Append(nil))
		},
		"ALIVE2_X_RESP": func(t *testing.T, b []byte) []byte {
			r := must[Alive2Resp](t)(ReadAlive2Resp(bytes.NewReader(b)))
			return r.Append(nil, 6)
		},
		"PORT_PLEASE2_REQ": func(_ *testing.T, b []byte) []byte { return AppendRequest(nil, b[2], string(b[3:])) },
		"STATUS_REQ":       func(_ *testing.T, b []byte) []byte { return AppendRequest(nil, OpStatus, string(b[3:])) },
		"HANDOVER_REQ": func(t *testing.T, b []byte) []byte {
			return must[[]byte](t)(AppendHandoverReq(nil, string(b[3:])))
		},
		"HANDOVER_RESP_OK":           func(*testing.T, []byte) []byte { return AppendHandoverOK(nil, 6) },
		"HANDOVER_RESP_NO_SUCH_NODE": func(*testing.T, []byte) []byte { return AppendHandoverResult(nil, NoSuchNode) },
		"HANDOVER_ASK":               func(*testing.T, []byte) []byte { return HandoverAsk },
		"HANDOVER_SOCKET": func(t *testing.T, b []byte) []byte {
			name := must[string](t)(ReadHandoverSocket(bytes.NewReader(b)))
			return must[[]byte](t)(AppendHandoverSocket(nil, name))
		},
		"PASS": func(t *testing.T, b []byte) []byte {
			p := must[Passed](t)(ParsePass(b))
			if want := (Passed{42, netip.MustParseAddrPort("192.0.2.7:54321")}); p != want {
				t.Errorf("got %+v", p)
			}
			return must[[]byte](t)(AppendPass(nil, p))
		},
		"ACK": func(t *testing.T, b []byte) []byte { return AppendAck(nil, must[Ack](t)(ParseAck(b))) },
	}
	examples := docExamples(t)
	for name, f := range again {
		t.Run(name, func(t *testing.T) {
			want, ok := examples[name]
			if !ok {
				t.Fatal("docs/PROTOCOL.md has no such example")
			}
			if got := f(t, want); !bytes.Equal(got, want) {
				t.Errorf("got  % x\nwant % x", got, want)
			}
		})
	}
}
