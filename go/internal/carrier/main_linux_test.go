package carrier

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"handover/go/internal/fdpass"
	"handover/go/internal/testkit"
)

// strangerEnv makes this test binary another process that connects to an abstract socket.
const strangerEnv = "HANDOVER_TEST_STRANGER"

func TestMain(m *testing.M) {
	if name := os.Getenv(strangerEnv); name != "" {
		os.Exit(beStranger(name))
	}
	testkit.CleanEnvironment()
	os.Exit(m.Run())
}

// beStranger connects, and expects the far end to close.
func beStranger(name string) int {
	c, err := fdpass.Dial(name)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	c.SetDeadline(time.Now().Add(testkit.Patience))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		fmt.Println("not sent away:", n, err)
		return 3
	}
	return 0
}

// stranger connects to the socket from another process, of uid if that is not 0, and
// fails the test unless that is refused.
func stranger(t *testing.T, uid uint32, name string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), strangerEnv+"="+name)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
