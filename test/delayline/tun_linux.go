package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// device is the name of the TUN device in both namespaces.
const device = "delay0"

// openTUN makes the device in the network namespace of that name (as `ip netns add` makes it), gives it the address and
// takes it up. The device lives until the file is closed.
func openTUN(namespace, address string) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: a thread in another namespace must not be used again
		file, err := openTUNHere(namespace)
		done <- result{file, err}
	}()
	opened := <-done
	if opened.err != nil {
		return nil, fmt.Errorf("namespace %s: %w", namespace, opened.err)
	}
	if err := configure(namespace, address); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", namespace, closing(opened.file, err))
	}
	return opened.file, nil
}

// closing closes the file on the way out with err.
func closing(file *os.File, err error) error {
	_ = file.Close() // err is the news
	return err
}

// openTUNHere moves the calling thread into the namespace: a TUN device belongs to the namespace in which
// /dev/net/tun was opened.
func openTUNHere(namespace string) (*os.File, error) {
	ns, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return nil, fmt.Errorf("%w (`ip netns add %s` makes it)", err, namespace)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, os.NewSyscallError("setns", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	if err := setTUN(fd); err != nil {
		_ = unix.Close(fd) // err is the news
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

func setTUN(fd int) error {
	request, err := unix.NewIfreq(device)
	if err != nil {
		return fmt.Errorf("device name %q: %w", device, err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return os.NewSyscallError("ioctl TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
}

// configure uses ip(8), which everybody who made the namespace has.
func configure(namespace, address string) error {
	for _, arguments := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "set", device, "mtu", "1500", "txqueuelen", "16384"},
		{"addr", "add", address, "dev", device},
		{"link", "set", device, "up"},
	} {
		command := exec.Command("ip", append([]string{"-n", namespace}, arguments...)...)
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(command.Args, " "), err, strings.TrimSpace(string(output)))
		}
	}
	return nil
}
