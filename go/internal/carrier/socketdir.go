package carrier

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"handover/go/internal/epmdproto"
)

const (
	// dirMode: EPMD may be another user. It must reach a socket whose name it
	// was told, and nobody needs to list them.
	dirMode    = 0o711
	socketMode = 0o666
	// staleAge: no socket here waits for longer than seconds.
	staleAge  = time.Minute
	nameBytes = 8
	// A private socket is privatePrefix<digits>/privateName.
	privatePrefix = "fd-"
	privateName   = "s"
)

// socketDir is where the Unix sockets are made.
type socketDir struct {
	path      string
	temporary bool
	note      string // for the log: why it is not the usual one
}

// openSocketDir prepares the directory: the one that was set, or
// handover-<uid> in the directory for temporary files. It must be ours and
// nobody else may write there. A default that is not gives way to a fresh one;
// one that was set is an error.
func openSocketDir(configured string) (*socketDir, error) {
	d := &socketDir{path: configured}
	if configured == "" {
		d.path = filepath.Join(os.TempDir(), fmt.Sprintf("handover-%d", os.Getuid()))
	}
	longest := filepath.Join(d.path, hex.EncodeToString(make([]byte, nameBytes)))
	if err := epmdproto.ValidPath(longest); err != nil {
		return nil, fmt.Errorf("carrier: sockets in %q: %w; set socket_dir (HANDOVER_SOCKET_DIR) to another directory", d.path, err)
	}
	err := d.claim(configured == "")
	if err != nil && configured == "" {
		err = d.fallBack(err)
	}
	if err != nil {
		return nil, fmt.Errorf("carrier: socket_dir: %w", err)
	}
	d.sweep()
	return d, nil
}

// claim makes the directory or makes sure that it can be used.
func (d *socketDir) claim(ours bool) error {
	err := os.Mkdir(d.path, dirMode)
	if err == nil {
		return os.Chmod(d.path, dirMode) // whatever the umask is
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(d.path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no directory but %v", d.path, info.Mode().Type())
	case !ok || st.Uid != uint32(os.Getuid()):
		return fmt.Errorf("%s is not owned by uid %d", d.path, os.Getuid())
	case ours && info.Mode().Perm() != dirMode:
		return os.Chmod(d.path, dirMode)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written by others (mode %04o); chmod go-w it", d.path, info.Mode().Perm())
	}
	return nil
}

func (d *socketDir) fallBack(why error) error {
	path, err := os.MkdirTemp("", "handover-")
	if err != nil {
		return fmt.Errorf("%w; and %w", why, err)
	}
	d.path, d.temporary, d.note = path, true, "sockets go to a fresh directory: "+why.Error()
	return os.Chmod(path, dirMode)
}

func (d *socketDir) close() {
	if d.temporary {
		_ = os.Remove(d.path)
	}
}

// listen opens a socket of a fresh name that every user may connect to; who it
// is is asked at accept. Closing it removes the file.
func (d *socketDir) listen() (*net.UnixListener, error) {
	var name [nameBytes]byte
	rand.Read(name[:]) // never fails
	l, err := listenAt(filepath.Join(d.path, hex.EncodeToString(name[:])))
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(l.Addr().String(), socketMode); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("carrier: %w", err)
	}
	return l, nil
}

// privateListener has a directory of its own.
type privateListener struct {
	*net.UnixListener
	once sync.Once
}

// listenPrivate opens a socket that only our own user can reach.
func (d *socketDir) listenPrivate() (*privateListener, error) {
	dir, err := os.MkdirTemp(d.path, privatePrefix)
	if err != nil {
		return nil, fmt.Errorf("carrier: %w", err)
	}
	l, err := listenAt(filepath.Join(dir, privateName))
	if err != nil {
		_ = os.Remove(dir)
		return nil, err
	}
	return &privateListener{UnixListener: l}, nil
}

// close removes the socket and its directory.
func (l *privateListener) close() {
	l.once.Do(func() {
		_ = l.Close()
		_ = os.Remove(filepath.Dir(l.Addr().String()))
	})
}

func listenAt(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
	if err != nil {
		return nil, fmt.Errorf("carrier: %w", err)
	}
	return l, nil
}

// sweep removes what carriers that were killed left behind.
func (d *socketDir) sweep() {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return // then nobody can make anything there either, and that is told
	}
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		if e.IsDir() && strings.HasPrefix(e.Name(), privatePrefix) && stale(path, fs.ModeDir) {
			removeDead(filepath.Join(path, privateName))
			_ = os.Remove(path) // only if empty
		} else if len(e.Name()) == 2*nameBytes {
			removeDead(path)
		}
	}
}

func removeDead(path string) {
	if stale(path, fs.ModeSocket) && dead(path) {
		_ = os.Remove(path)
	}
}

func stale(path string, kind fs.FileMode) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == kind && time.Since(info.ModTime()) > staleAge
}

// dead: nobody listens there any more.
func dead(path string) bool {
	c, err := net.Dial("unixpacket", path)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}
