package pages

import (
	"testing"

	"handover/go/internal/testkit"
)

// TestContainers hands connections over to a node in a container: in other mount, process, UTS and IPC namespaces than EPMD, and
// with a read-only temporary directory.
func TestContainers(t *testing.T) {
	h := newHosts(t)
	h.mustRun(t, 2, "", "sh", "-c", "epmd </dev/null >epmd.log 2>&1 &")
	testkit.WaitFor(t, "epmd", func() bool { _, err := h.run(t, 2, "", "epmd", "-names"); return err == nil })
	contained := `mount -t tmpfs -o ro tmpfs /var/tmp; mount -t proc proc /proc; exec "$@"`
	args := []string{"unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-ec", contained, "sh",
		"erl", "-noinput", "-sname", "a@host2"}
	node := h.command(t, 2, append(args, handoverArgs()...)...)
	node.Env = append(node.Env, "TMPDIR=/var/tmp") // a read-only directory
	h.startBackground(t, node)
	h.waitRegistered(t, 2, "a")
	h.checkPingFrom(t, "n1@host1", "a@host2", "pong", handoverArgs()...)
}
