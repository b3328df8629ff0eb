#!/bin/busybox sh
# Uses a disk and a network for a moment, tells how many CPUs run programs, and stays until the domain is asked to
# end, unless it is to be brief (brief=1). How much memory it has is told
# whenever that changes.

. /work/lib

uses_disk() {
    mount -t ext4 /dev/xvda /mnt || { /sbin/mke2fs -q -F -t ext4 /dev/xvda && mount -t ext4 /dev/xvda /mnt; } || return
    date >>/mnt/boots && sync && umount /mnt
}

# Every CPU runs a program, all at the same time.
# shellcheck disable=SC2154
runs_on_all_cpus() {
    [ "$(nproc)" = "$cpus" ] || return
    cpu=0
    while [ $cpu -lt "$cpus" ]; do
        taskset -c $cpu sh -c 'dd if=/dev/zero bs=64k count=64 | crc32' >/tmp/cpu$cpu &
        cpu=$((cpu + 1))
    done
    wait
    [ "$(cat /tmp/cpu* | sort -u | wc -l)" = 1 ] && [ "$(cat /tmp/cpu* | wc -l)" = "$cpus" ]
}

await test -b /dev/xvda
await test -e /sys/class/net/eth0
check both-disk uses_disk
check both-dhcp udhcpc -i eth0 -n -q -t 10 -s /work/dhcp
check both-pings ping -c 5 -i 0.2 10.10.1.1
check both-cpus runs_on_all_cpus
echo "both: is here"
# shellcheck disable=SC2154
[ -z "$brief" ] || exit 0

memory=/sys/devices/system/xen_memory/xen_memory0/info/current_kb
before=$(cat $memory)
while :; do
    now=$(cat $memory)
    # Not every step on the way.
    usleep 300000
    if [ "$now" != "$before" ] && [ "$now" = "$(cat $memory)" ]; then
        echo "both: has $now KiB, of which $(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) are the kernel's to give"
        before=$now
    fi
done
