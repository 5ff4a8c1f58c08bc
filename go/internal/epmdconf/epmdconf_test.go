package epmdconf

import (
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"handover/go/internal/policy"
)

// TestErrors has the error text for each kind of mistake.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"colour = 1":                                `line 1: unknown key "colour"`,
		"\n[allow]\nlookup = []":                    `line 3: unknown key "allow.lookup"`,
		"[alow]\nlookups = []":                      `line 1: unknown key "alow"`,
		"[allow]\nnames = [\n\"::/0\",\n\"10/8\"]":  `line 4: allow.names: "10/8" is not a network: write ADDRESS/BITS or an IP address`,
		"[allow]\nlookups = [\"10.0.0.1/8\"]":       `line 2: allow.lookups: "10.0.0.1/8" has bits set after the first 8: did you mean 10.0.0.0/8?`,
		"[allow]\nlookups = \"10.0.0.0/8\"":         "line 2: allow.lookups: the value is of the wrong type, string",
		"[nodes]\nhidden = [\"n@host\"]":            `line 2: nodes.hidden: "n@host" has an @`,
		"[rate]\nper_second = \"x\"":                "line 2: rate.per_second: the value is of the wrong type, string",
		"[rate]\nper_second = -1":                   "rate.per_second is -1",
		"[rate]\nburst = 5":                         "rate.burst is 5 but rate.per_second is not set",
		"metrics = \"localhost:9100\"":              `line 1: metrics: "localhost:9100" is not an address for metrics: use IP:PORT or [IPV6]:PORT`,
		"metrics = \"127.0.0.1:0\"":                 "is not an address for metrics",
		"metrics = \"127.0.0.1:9\"\nmetrics = \"\"": "line 2: ",
		"rate":                              "line 1: expected '=' after key",
		"# " + strings.Repeat("x", MaxSize): "longer than 1048576 bytes",
	} {
		if c, err := Parse([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) && !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %+v, %v", text, c, err)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	for _, size := range []int{MaxSize - 1, MaxSize, MaxSize + 1} {
		name := filepath.Join(t.TempDir(), "epmd.toml")
		if err := os.WriteFile(name, []byte("#"+strings.Repeat("x", size-1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(name); (err == nil) != (size <= MaxSize) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestLoad(t *testing.T) {
	name := filepath.Join(t.TempDir(), "epmd.toml")
	if _, err := Load(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("no such file: %v", err)
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(name); err != nil || c != (Config{}) {
		t.Errorf("an empty file: %+v, %v", c, err)
	}
	if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(name); err == nil || !strings.HasPrefix(err.Error(), "configuration "+name+": line 1: ") {
		t.Errorf("a bad file: %v", err)
	}
}

// TestExample: the example file of the page has the documented effect.
func TestExample(t *testing.T) {
	c, err := Load("../../../examples/epmd.toml")
	if err != nil || c.Policy == nil || c.Metrics != netip.MustParseAddrPort("127.0.0.1:9369") {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, want := range []struct {
		request policy.Request
		peer    string
		name    string
		reason  policy.Reason
	}{
		{policy.Lookup, "10.1.2.3", "app1", policy.Source}, {policy.Names, "10.1.2.3", "", policy.Source},
		{policy.Handover, "10.1.2.3", "app1", policy.Allowed}, {policy.Handover, "2001:db8:1::5", "app1", policy.Allowed},
		{policy.Handover, "192.0.2.1", "app1", policy.Source}, {policy.Handover, "10.1.2.3", "rem_sh", policy.Hidden},
		{policy.Handover, "10.1.2.3", "db", policy.Node},
	} {
		peer := netip.MustParseAddr(want.peer)
		if got := c.Policy.Check(want.request, peer, netip.PrefixFrom(peer, peer.BitLen()), want.name); got != want.reason {
			t.Errorf("%+v: %v", want, got)
		}
	}
}

// TestInstalled: the installed file sets nothing, and its commented settings are valid.
func TestInstalled(t *testing.T) {
	text, err := os.ReadFile("../../../packaging/systemd/epmd.toml")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Parse(text); err != nil || c != (Config{}) {
		t.Errorf("as it is: %+v, %v", c, err)
	}
	uncommented := regexp.MustCompile(`(?m)^#([^ ])`).ReplaceAll(text, []byte("$1"))
	c, err := Parse(uncommented)
	if err != nil || c.Policy == nil || !c.Metrics.IsValid() {
		t.Errorf("without the comments: %+v, %v\n%s", c, err, uncommented)
	}
}

// FuzzParse: no file causes a panic, and no error is empty.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../../examples/epmd.toml")
	if err != nil {
		f.Fatal(err)
	}
	// Fill the caches of the reader first, since they would count as a leak.
	_, _ = Parse(example)
	f.Add(example)
	for _, s := range []string{"", "a=1", "[allow]\nlookups=[1]", "[rate]\nper_second=nan", "allow.names=[]", "[[allow]]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := Parse(text); err != nil && err.Error() == "" {
			t.Error("an error without a word")
		}
	})
}
