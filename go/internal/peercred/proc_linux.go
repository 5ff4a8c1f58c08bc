package peercred

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// procNet is the directory of the kernel's socket tables. A /proc that is mounted with
// subset=pid (ProcSubset= of a systemd unit) does not have it.
var procNet = "/proc/self/net/"

// procOwner does TCPOwner with /proc/self/net/tcp and tcp6. It reads a whole table, so it is
// only for hosts without sock_diag.
func procOwner(local, remote netip.AddrPort) (uid uint32, err error) {
	// An IPv4 connection may be in tcp6, of a socket that takes both families.
	tables := []string{"tcp", "tcp6"}
	if local.Addr().Is6() {
		tables = tables[1:]
	}
	for _, table := range tables {
		uid, found, tableErr := searchTable(procNet+table, withoutZone(local), withoutZone(remote))
		if found {
			return uid, nil
		}
		// Without IPv6 there is no tcp6.
		if tableErr != nil && !(len(tables) == 2 && table == "tcp6" && errors.Is(tableErr, os.ErrNotExist)) {
			err = errors.Join(err, tableErr)
		}
	}
	if err == nil {
		err = &NotFoundError{local, remote}
	}
	return 0, err
}

func withoutZone(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
}

// The columns of a line, which begins "sl local_address rem_address st".
const (
	colLocal  = 1
	colRemote = 2
	colState  = 3
	colUID    = 7
	colInode  = 9
	columns   = 10
)

func searchTable(path string, local, remote netip.AddrPort) (uid uint32, found bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	as6 := strings.HasSuffix(path, "6")
	ends := [2]string{procEnd(local, as6), procEnd(remote, as6)}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// Most lines are of other connections and need not be split.
		if !bytes.Contains(lines.Bytes(), []byte(ends[0])) {
			continue
		}
		col := strings.Fields(lines.Text())
		if len(col) < columns || col[colLocal] != ends[0] || col[colRemote] != ends[1] {
			continue
		}
		state, err1 := strconv.ParseUint(col[colState], 16, 8)
		owner, err2 := strconv.ParseUint(col[colUID], 10, 32)
		inode, err3 := strconv.ParseUint(col[colInode], 10, 64)
		if err := errors.Join(err1, err2, err3); err != nil {
			return 0, false, fmt.Errorf("%s: %w", path, err)
		}
		if (state == tcpEstablished || state == tcpCloseWait) && inode != 0 {
			return uint32(owner), true, nil
		}
	}
	return 0, false, lines.Err()
}

// procEnd returns an address as a table has it: words of 32 bits in the host's byte order,
// and the port.
func procEnd(a netip.AddrPort, as6 bool) string {
	b := a.Addr().AsSlice()
	if as6 {
		b16 := a.Addr().As16()
		b = b16[:]
	}
	words := make([]byte, len(b))
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(words[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString(words)), a.Port())
}
