# Runs inside the new base, which has no /dev and no /proc. Arguments: user, working directory, apt sources.
set -eu
user=$1 workdir=$2 sources=$3

if ! grep -q "^$user:" /etc/passwd; then
    useradd --create-home --shell /bin/bash "$user"
fi
mkdir -p /workspace "$workdir" /mnt/session/outputs
chown "$user:" /workspace "$workdir" /mnt/session/outputs

# apt as a user of the guest wants it, not as the build had it.
rm -f /etc/apt/apt.conf.d/99mmdebstrap /etc/apt/sources.list /etc/apt/sources.list.d/*
printf '%s' "$sources" >/etc/apt/sources.list.d/debian.sources

# No init runs in a sandbox that a package could have its service started by (policy-rc.d(8)).
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d

# Nothing that is one machine's.
printf 'sandbox\n' >/etc/hostname
printf '127.0.0.1 localhost\n127.0.1.1 sandbox\n::1 localhost ip6-localhost ip6-loopback\n' >/etc/hosts
: >/etc/resolv.conf
chmod 0644 /etc/hostname /etc/hosts /etc/resolv.conf
: >/etc/machine-id
rm -f /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/dbus/machine-id

# Nothing that only building has made, or that differs from build to build.
find /var/log -type f -delete
rm -rf /var/lib/apt/lists/* /var/cache/apt/archives /var/cache/apt/*.bin /tmp/* /var/tmp/* /run/*
mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial
chown _apt:root /var/lib/apt/lists/partial /var/cache/apt/archives/partial
chmod 0700 /var/lib/apt/lists/partial /var/cache/apt/archives/partial
rm -f /etc/.pwd.lock /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/cache/ldconfig/aux-cache
