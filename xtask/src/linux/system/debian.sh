#!/bin/sh
# What mmdebstrap runs when the packages of a root file system are installed in $1: configures it, and makes the ext4 image $IMAGE of it,
# of $SIZE.

set -e
# Who has the guest's console is its administrator.
chroot "$1" passwd --quiet --delete root
echo debian >"$1/etc/hostname"
echo "/dev/xvda / ext4 defaults 0 1" >"$1/etc/fstab"
# Each copy makes one of its own.
: >"$1/etc/machine-id"
printf '[Match]\nType=ether\n\n[Network]\nDHCP=yes\n' >"$1/etc/systemd/network/all.network"
chroot "$1" systemctl --quiet enable systemd-networkd
chroot "$1" apt-get clean
rm -r "$1"/var/lib/apt/lists/*
mke2fs -q -t ext4 -d "$1" "$IMAGE" "$SIZE"
