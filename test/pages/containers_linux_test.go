package pages

import (
	"testing"

	"handover/go/internal/testkit"
)

// TestContainers: connections are handed over to a node in other mount and process
// namespaces than EPMD's, with a /tmp of its own.
func TestContainers(t *testing.T) {
	h := newHosts(t)
	h.must(t, 2, "", "sh", "-c", "epmd </dev/null >epmd.log 2>&1 &")
	testkit.WaitFor(t, "epmd", func() bool { _, err := h.run(t, 2, "", "epmd", "-names"); return err == nil })
	contained := `mount -t tmpfs -o ro tmpfs /var/tmp; mount -t proc proc /proc; exec "$@"`
	args := []string{"unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-ec", contained, "sh",
		"erl", "-noinput", "-sname", "a@host2"}
	node := h.command(t, 2, append(args, overHandover()...)...)
	node.Env = append(node.Env, "TMPDIR=/var/tmp") // nothing can be written there
	h.background(t, node)
	h.registered(t, 2, "a")
	h.pingAs(t, "n1@host1", "a@host2", "pong", overHandover()...)
}
