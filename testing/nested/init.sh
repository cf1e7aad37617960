#!/usr/bin/env bash
# PID 1 of the nested host: sets up what a host has, runs /nested/command within a time limit, says on the console how it
# ended, and turns the machine off. /nested/settings has MARK, the word that the last line begins with, and LIMIT.
set -u
# shellcheck source=/dev/null
. /nested/settings
export PATH=/nested/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=0620,gid=5,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for controller in cpu io memory pids; do
    printf '+%s' "$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
printf 'nested\n' >/proc/sys/kernel/hostname
printf '127.0.0.1 localhost nested\n' >/etc/hosts
ip link set lo up
# Whoever made the disk, it is root's here.
chown -R 0:0 /nested
[ -e /dev/kvm ] || printf 'nested host: no /dev/kvm: the emulated processor has no SVM, or kvm_amd did not load\n'

cd /nested || exit 1
timeout --kill-after=20 "$LIMIT" bash /nested/command </dev/null
code=$?
[ "$code" != 124 ] || printf 'nested host: ended after its %s seconds\n' "$LIMIT"
sync
printf '\n%s %s\n' "$MARK" "$code"
# Waits until that is out: what the kernel says of the power would come in between.
stty cs8 </dev/console || true
printf o >/proc/sysrq-trigger
# The machine goes off while PID 1, which must not end, waits.
while :; do sleep 60; done
