package carrier

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDefaultDir(t *testing.T) {
	t.Setenv("TMPDIR", socketTestDir(t))
	for range 2 {
		d, err := openSocketDir("")
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(d.path)
		if err != nil || info.Mode().Perm() != dirMode || !strings.HasPrefix(filepath.Base(d.path), "handover-") || d.temporary {
			t.Errorf("%+v, %v, %v", d, info, err)
		}
		os.Chmod(d.path, 0o700) // as an old umask would have it
	}
}

// Somebody else's directory of that name gives way to a fresh one.
func TestDefaultDirTaken(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to give a directory away")
	}
	for name, take := range map[string]func(string) error{
		"another user's": func(p string) error {
			if err := os.Mkdir(p, 0o777); err != nil {
				return err
			}
			return os.Chown(p, 65534, 65534)
		},
		"a symbolic link": func(p string) error { return os.Symlink("/", p) },
		"a file":          func(p string) error { return os.WriteFile(p, nil, 0o600) },
	} {
		tmp := socketTestDir(t)
		t.Setenv("TMPDIR", tmp)
		if err := take(filepath.Join(tmp, "handover-0")); err != nil {
			t.Fatal(err)
		}
		d, err := openSocketDir("")
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(d.path)
		if err != nil || info.Mode().Perm() != dirMode || !d.temporary || !strings.Contains(d.note, "handover-0") {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
		d.close()
		if _, err := os.Lstat(d.path); err == nil {
			t.Errorf("%s: the fresh one is left", name)
		}
	}
}

// 107 bytes of path are taken, 108 are not.
func TestPathLength(t *testing.T) {
	base := socketTestDir(t)
	for over := range 2 {
		dir := base + "/" + strings.Repeat("d", 107-len(base)-1-1-2*nameBytes+over)
		d, err := openSocketDir(dir)
		if over == 1 {
			if err == nil || !strings.Contains(err.Error(), "108 bytes") || !strings.Contains(err.Error(), "socket_dir") {
				t.Errorf("%v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		l, err := d.listen()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		p, err := d.listenPrivate()
		if err != nil {
			t.Fatal(err)
		}
		p.close()
	}
}

// What killed carriers left is swept; what is alive, young or not ours stays.
func TestSweep(t *testing.T) {
	dir := socketTestDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	socket := func(path string, old, alive bool) {
		l, err := listenAt(path)
		if err != nil {
			t.Fatal(err)
		}
		if old {
			ago := time.Now().Add(-2 * staleAge)
			if err := os.Chtimes(path, ago, ago); err != nil {
				t.Fatal(err)
			}
		}
		if alive {
			t.Cleanup(func() { l.Close() })
			return
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	for _, d := range []string{"fd-1", "fd-2", "fd-3"} {
		if err := os.Mkdir(in(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	socket(in("00000000000000aa"), true, false)
	socket(in("00000000000000bb"), false, false)
	socket(in("00000000000000cc"), true, true)
	socket(in("other"), true, false)
	socket(in("fd-1/s"), true, false)
	socket(in("fd-2/s"), false, false)
	ago := time.Now().Add(-2 * staleAge)
	for _, d := range []string{"fd-1", "fd-3"} {
		if err := os.Chtimes(in(d), ago, ago); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openSocketDir(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := "00000000000000bb 00000000000000cc fd-2 other"; err != nil || strings.Join(left, " ") != want {
		t.Errorf("%q, %v; want %q", left, err, want)
	}
	c, err := net.Dial("unixpacket", in("00000000000000cc"))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
