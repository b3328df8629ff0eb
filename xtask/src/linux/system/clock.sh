#!/bin/busybox sh
# Compares the clock with a peer's (peer=ADDRESS), and again a minute later.

. /work/lib

# How far it is from the peer's, in microseconds: the median of 25 answers, of which a busy host delays some.
offset() {
    for _ in $(seq 25); do
        # shellcheck disable=SC2154
        /usr/sbin/rdate -4 -n -o 123 -p -v "$peer" 2>&1 | tee -a /tmp/answers | sed -n 's/.* by \([-0-9.]*\) seconds.*/\1/p'
    done | sort -n | sed -n 13p | awk '{ printf "%d", $1 * 1000000 }'
}

await test -e /sys/class/net/eth0
check clock-dhcp udhcpc -i eth0 -n -q -t 10 -s /work/dhcp
first=$(offset)
begun=$(cut -d . -f 1 /proc/uptime)
sleep 60
second=$(offset)
took=$(($(cut -d . -f 1 /proc/uptime) - begun))
sed "s/^/clock: /" /tmp/answers
echo "RESULT clock first=$first second=$second seconds=$took source=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
within() {
    drift=$((second - first))
    echo "$drift us"
    [ -n "$first" ] && [ -n "$second" ] && [ ${drift#-} -le $((50 * took)) ]
}
check clock-keeps-time within
