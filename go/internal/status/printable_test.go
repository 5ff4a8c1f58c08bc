package status

import (
	"encoding/json"
	"testing"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"name n at port 1\nname Ångström at port 2\n": "name n at port 1\nname Ångström at port 2\n",
		"\x1b[2J\x00\x7f\r":                           `\u001b[2J\u0000\u007f\u000d`,
		"\u009b2J\u202e":                              `\u009b2J\u202e`,
		"\U000e0041\xff\ufffd":                        `\udb40\udc41\u00ff` + "\ufffd",
	} {
		got := Printable(text)
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	var back string
	if err := json.Unmarshal([]byte(Printable("\"\u009b\U000e0041\"")), &back); err != nil || back != "\u009b\U000e0041" {
		t.Errorf("%q, %v", back, err)
	}
}
