#!/bin/busybox sh
# shellcheck shell=dash
# /init of the nested host's initramfs: loads the modules in their order, mounts both disks, and goes on with the second
# one's `init.sh`.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /new
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do
    $b insmod "/modules/$module" || $b echo "nested host: $module does not load"
done </modules/order
# Disks appear some time after their driver.
tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || exec $b poweroff -f
    $b usleep 100000
done
if ! { $b mount -t ext4 -o noatime /dev/vda /new && $b mount -t ext4 -o noatime,noinit_itable /dev/vdb /new/nested; }; then
    exec $b poweroff -f
fi
for at in proc sys dev; do
    $b mount -o move "/$at" "/new/$at"
done
exec $b switch_root /new /bin/bash /nested/init.sh
