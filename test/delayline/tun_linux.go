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

// openTUN creates the device in a network namespace that `ip netns add` has created, gives it the address and sets it up. The
// caller must close the file, which removes the device.
func openTUN(namespace, address string) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: a thread in another namespace must not be used for other goroutines
		file, err := openTUNHere(namespace)
		done <- result{file, err}
	}()
	opened := <-done
	if opened.err != nil {
		return nil, fmt.Errorf("namespace %s: %w", namespace, opened.err)
	}
	if err := configureDevice(namespace, address); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", namespace, closeAfter(opened.file, err))
	}
	return opened.file, nil
}

// closeAfter closes the file and returns err, the error that made it useless.
func closeAfter(file *os.File, err error) error {
	_ = file.Close()
	return err
}

// openTUNHere moves the calling thread into the namespace, because a TUN device belongs to the namespace in which /dev/net/tun
// was opened.
func openTUNHere(namespace string) (*os.File, error) {
	ns, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return nil, fmt.Errorf("%w (`ip netns add %s` creates it)", err, namespace)
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
		_ = unix.Close(fd)
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

// configureDevice sets the device up with ip(8). That program exists, because it created the namespace.
func configureDevice(namespace, address string) error {
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
