#!/usr/bin/env bash
# Runs a command in a nested host: a machine emulated by QEMU, whose processor has SVM, and in which /dev/kvm works
# therefore wherever this runs. Its console is this script's standard output, its command's exit code this script's.
#
#   run.sh FOLDER STAGE COMMAND...
#
# FOLDER is where build.sh keeps the host's parts; STAGE is copied to the host's disk as /nested, so that the command finds
# STAGE/x as /nested/x, and /nested/bin in its PATH. NESTED_LIMIT: seconds that the command may take (7200);
# NESTED_MEMORY: the host's MiB (6144). NESTED_QEMU: further options of QEMU. Nothing that the command writes is kept.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1 stage=$2
shift 2
limit=${NESTED_LIMIT:-7200}
read -ra more <<<"${NESTED_QEMU:-}"

"$here/build.sh" "$folder"

qemu=
work=$(mktemp -d "$folder/run.XXXXXX")
# shellcheck disable=SC2317 # by the traps
finish() {
    [ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A word that nothing else on the console begins with.
mark=nested-host-ended-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
mkdir "$work/disk"
cp -rl "$stage/." "$work/disk/" 2>/dev/null || { rm -rf "$work/disk" && cp -r "$stage" "$work/disk"; }
cp "$here/init.sh" "$work/disk/init.sh"
printf 'MARK=%s\nLIMIT=%s\n' "$mark" "$limit" >"$work/disk/settings"
printf '%q ' "$@" >"$work/disk/command"
truncate --size=16G "$work/disk.img"
PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -F -E root_owner=0:0 -d "$work/disk" "$work/disk.img"
rm -rf "$work/disk"

# One processor. An interrupt that KVM injects into its guest is taken twice if QEMU leaves its emulation loop before the
# guest has exited (helper_vmrun in its svm_helper.c does not reset `exception_index`; seen with 7.2 and 10.0), the second
# time also where the guest has interrupts off, and it spins for ever. With several processors each of them is made to
# leave by whatever the others are told; and so it is by -icount. With a thread for each, emulated SVM has frozen besides.
mkfifo "$work/console"
TMPDIR=$work qemu-system-x86_64 \
    -no-user-config -nodefaults -no-reboot -display none -serial stdio \
    -machine q35 -cpu max -accel tcg,thread=single -smp 1 -m "${NESTED_MEMORY:-6144}" "${more[@]}" \
    -kernel "$folder/vmlinuz" -initrd "$folder/initramfs.cpio" -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off" \
    -drive "file=$folder/root.img,format=raw,if=virtio,snapshot=on" \
    -drive "file=$work/disk.img,format=raw,if=virtio,cache=unsafe" \
    </dev/null >"$work/console" 2>"$work/qemu.log" &
qemu=$!

# Reads to the marker, however the host talks; a host that is silent for longer than its command may take has hung.
code=
exec 3<"$work/console"
while IFS= read -r -t $((limit + 300)) line <&3; do
    line=${line%$'\r'}
    if [[ $line == "$mark "* ]]; then
        code=${line#"$mark "}
        break
    fi
    printf '%s\n' "$line"
done
if [ -z "$code" ]; then
    cat "$work/qemu.log" >&2
    printf 'run.sh: the nested host ended, or hung, without saying how its command did\n' >&2
    exit 125
fi
timeout 60 tail --pid="$qemu" -f /dev/null || kill "$qemu" 2>/dev/null || true
wait "$qemu" 2>/dev/null || true
qemu=
exit "$code"
