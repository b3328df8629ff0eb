#!/bin/busybox sh
# Measures what packets and reads cost, with a peer that serves datagrams (peer=ADDRESS:PORT).

. /work/lib

await test -b /dev/xvda
await test -e /sys/class/net/eth0
check devices-dhcp udhcpc -i eth0 -n -q -t 10 -s /work/dhcp
# shellcheck disable=SC2154
check devices-measures /bench devices "$peer"
