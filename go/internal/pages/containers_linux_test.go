package pages

import (
	"path/filepath"
	"testing"
)

// TestContainers: a node in other mount and process namespaces than EPMD's is
// handed over to where its sockets' folder is in both, and is not where EPMD does
// not see it.
func TestContainers(t *testing.T) {
	h := newHosts(t)
	log := filepath.Join(h.dir, "epmd.log")
	h.must(t, 2, "", "sh", "-c", "mkdir volume hidden; epmd </dev/null >epmd.log 2>&1 &")
	h.until(t, "epmd", func() bool { _, err := h.run(t, 2, "", "epmd", "-names"); return err == nil })
	contained := `mount -t tmpfs tmpfs hidden; mount -t proc proc /proc; exec "$@"`
	for _, c := range []struct{ name, dir, want string }{{"a", "volume", "pong"}, {"b", "hidden", "pang"}} {
		args := []string{"unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-ec", contained, "sh",
			"erl", "-noinput", "-sname", c.name + "@host2"}
		node := h.command(t, 2, append(args, overHandover()...)...)
		node.Env = append(node.Env, "HANDOVER_SOCKET_DIR="+filepath.Join(h.dir, c.dir, c.name))
		h.background(t, node)
		h.registered(t, 2, c.name)
		h.pingAs(t, "n1@host1", c.name+"@host2", c.want, overHandover()...)
	}
	want := "no way to bring connections to the node"
	h.until(t, want+" in epmd's log", func() bool { return h.has(t, log, want) && h.has(t, log, "no such file") })
}
