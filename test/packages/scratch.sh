#!/bin/sh
# Runs a command in a copy of a file system: an overlay, in separate namespaces, without a network except lo. The copy is
# discarded when the command ends. Needs root; without root, it prints the reason and exits with status 77.
#   test/packages/scratch.sh ROOT FOLDER COMMAND …      FOLDER is mounted at /mnt; COMMAND is process 1
set -eu
PATH=$PATH:/usr/sbin:/sbin
root=$1
folder=$(realpath "$2")
shift 2
if [ "$(id -u)" -ne 0 ]; then
    echo 'needs root for an overlay and dpkg'
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# /dev is a new one, because COMMAND may boot a system
# shellcheck disable=SC2016 # for the inner shell
timeout -k 5 300 unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child sh -euc '
    root=$1; folder=$2; cd "$3"; shift 3
    ip link set lo up
    mount -t tmpfs tmpfs "$PWD"
    cd "$PWD"
    mkdir upper work root
    mount -t overlay -o "lowerdir=$root,upperdir=upper,workdir=work" overlay root || {
        echo "this machine cannot mount an overlay over $root" >&2
        exit 77
    }
    cd root
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    mount -t tmpfs -o mode=755 tmpfs dev
    for device in null zero full random urandom tty; do
        touch "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    mount -t tmpfs tmpfs tmp
    mount -t tmpfs -o mode=755 tmpfs run
    mount --bind "$folder" mnt
    exec chroot . env -i LC_ALL=C.UTF-8 HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
' sh "$root" "$folder" "$work" "$@"
