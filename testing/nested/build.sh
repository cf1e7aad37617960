#!/usr/bin/env bash
# Builds what a nested host is made of, once, into a folder: Debian's full kernel, an initramfs that has the modules it
# needs, and a small Debian root file system.
#
#   build.sh FOLDER     leaves FOLDER/{vmlinuz,initramfs.cpio,root.img}
#
# Kernel and packages come from the suite that guest images come from, checked against Debian's keys. An ordinary user
# needs user namespaces and subordinate ids, as for `omnirun image build`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$1
export PATH=$PATH:/usr/sbin:/sbin

SUITE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# What the programs under test call, and what the machine starts with.
PACKAGES=busybox-static,e2fsprogs,iproute2,kmod,libseccomp2,nftables,procps,util-linux
# kvm_amd is what all this is for; the rest reaches the disks, and gives sandboxes a network. What the network's rules use
# beside these is in the root file system, and loaded when it is asked for, as on any host.
MODULES=(virtio_pci virtio_blk virtio_rng ext4 kvm_amd tun veth)

say() { printf '==> %s\n' "$*" >&2; }

# Another recipe makes another host.
recipe=$(cat "${BASH_SOURCE[0]}" "$here/initramfs.sh" | sha256sum | cut -c1-16)
if [ "$(cat "$folder/recipe" 2>/dev/null)" = "$recipe" ]; then
    exit 0
fi
mkdir -p "$folder"
exec 9>"$folder/.lock"
flock 9
[ "$(cat "$folder/recipe" 2>/dev/null)" != "$recipe" ] || exit 0
rm -f "$folder/recipe"

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        unshare --user --map-root-user --map-auto -- "$@"
    fi
}

work=$(mktemp -d "$folder/build.XXXXXX")
trap 'as_root rm -rf "$work"' EXIT
tree=$work/tree

say "building the nested host's root file system: Debian $SUITE with $PACKAGES, and linux-image-amd64 unpacked (once)"
source_line() { printf 'deb [signed-by=%s] %s %s main' "$KEYRING" "$1" "$2"; }
# The kernel is unpacked and not installed: its package would bring an initramfs generator that nobody needs here. Runs
# in mmdebstrap's name space, in which the new tree is $1. shellcheck sees a constant: it is one, for another shell.
# shellcheck disable=SC2016
unpack_kernel='set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$1/nested-kernel"
cd "$1/nested-kernel"
package=$(apt-cache depends linux-image-amd64 | sed -n "s/^ *Depends: \(linux-image-[^ ]*\)$/\1/p" | head -n 1)
apt-get download --quiet "$package"
dpkg-deb --extract ./linux-image-*.deb .
rm ./linux-image-*.deb'
(
    # Nothing of the caller's but this: packages' scripts run in there.
    for name in $(compgen -e); do
        case $name in
            PATH | http_proxy | https_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY) ;;
            *) unset "$name" ;;
        esac
    done
    export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
    mmdebstrap --quiet --mode=unshare --format=tar --variant=minbase --architectures=amd64 --include="$PACKAGES" \
        --aptopt='APT::Sandbox::User "root"' --aptopt='Acquire::Retries "3"' --customize-hook="$unpack_kernel" \
        "$SUITE" - \
        "$(source_line http://deb.debian.org/debian "$SUITE")" \
        "$(source_line http://deb.debian.org/debian "$SUITE-updates")" \
        "$(source_line http://deb.debian.org/debian-security "$SUITE-security")" </dev/null
) >"$work/root.tar"
mkdir "$tree"
as_root tar -C "$tree" --numeric-owner --exclude='./dev/*' -xf "$work/root.tar"
rm "$work/root.tar"
as_root mv "$tree/nested-kernel" "$work/kernel"
mkdir -p "$work/initramfs/bin" "$work/initramfs/modules"
cp "$tree/usr/bin/busybox" "$work/initramfs/bin/"

say "packing its initramfs and its root disk"
kernel=$work/kernel
[ -d "$kernel/lib" ] || as_root ln -s usr/lib "$kernel/lib"
version=$(basename "$kernel"/lib/modules/*)
as_root depmod -b "$kernel" "$version"
for module in "${MODULES[@]}"; do
    modprobe --dirname="$kernel" --set-version="$version" --show-depends "$module"
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$work/order"
while IFS= read -r module; do
    name=$(basename "$module")
    case $name in
        *.xz) name=${name%.xz} && xz -dc "$module" >"$work/initramfs/modules/$name" ;;
        *.ko) cp "$module" "$work/initramfs/modules/$name" ;;
        *) printf 'build.sh: %s is compressed in a way that this script does not know\n' "$name" >&2 && exit 1 ;;
    esac
    printf '%s\n' "$name" >>"$work/initramfs/modules/order"
done <"$work/order"
cp "$here/initramfs.sh" "$work/initramfs/init"
chmod 0755 "$work/initramfs/init"
(cd "$work/initramfs" && find . | sort | cpio --quiet --create --format=newc --owner=0:0) >"$work/initramfs.cpio"
# These two lead into a package that is not there.
as_root rm -rf "$kernel/lib/modules/$version/build" "$kernel/lib/modules/$version/source"
as_root mkdir -p "$tree/lib/modules"
as_root cp -a "$kernel/lib/modules/$version" "$tree/lib/modules/"
truncate --size=2G "$work/root.img"
as_root mkdir -p "$tree/nested"
as_root mkfs.ext4 -q -F -E root_owner=0:0 -d "$tree" "$work/root.img"

cp "$kernel/boot/vmlinuz-$version" "$folder/vmlinuz"
mv "$work/initramfs.cpio" "$work/root.img" "$folder/"
printf '%s\n' "$recipe" >"$folder/recipe"
say "the nested host has Linux $version"
