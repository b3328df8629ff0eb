#!/bin/busybox sh
# Xen's control domain: makes a guest with a disk and a network, shows what its console had when it is there, and ends.

. /work/lib

export PATH=/usr/lib/xen-4.17/bin:/usr/bin:$PATH
mount -t xenfs xen /proc/xen
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mkdir -p /run/lock /run/xen /run/xenstored /var/lib/xen /var/lib/xenstored /var/log/xen/console
ln -s /run /var/run
ln -s /run/lock /var/lock
ln -s /proc/self/fd /dev/fd
ifconfig lo up

xenstored --pid-file /run/xenstored.pid
await xenstore-write /tool/here 1
xen-init-dom0
xenconsoled --log=guest --log-dir=/var/log/xen/console

truncate -s 64M /tmp/disk
losetup /dev/loop0 /tmp/disk
# Until the guest is gone, and without a look at it before: it may be measured.
xl create -F /guest/config
sed 's/^/(guest) /' /var/log/xen/console/guest-*.log
