package carrier

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// strangerEnv makes this test binary another process that connects to a path.
const strangerEnv = "HANDOVER_TEST_STRANGER"

func TestMain(m *testing.M) {
	if path := os.Getenv(strangerEnv); path != "" {
		os.Exit(beStranger(path))
	}
	os.Exit(m.Run())
}

// beStranger connects and waits for the far end to close.
func beStranger(path string) int {
	c, err := net.Dial("unixpacket", path)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	c.SetDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		fmt.Println("not sent away:", n, err)
		return 3
	}
	return 0
}

// stranger connects to path from another process, of uid if that is not 0, and
// fails the test unless it is sent away.
func stranger(t *testing.T, uid uint32, path string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), strangerEnv+"="+path)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
