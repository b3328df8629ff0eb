#!/bin/busybox sh
# Serves iperf3; or, if there is a server (server=ADDRESS), measures both ways, with one connection and with four. Stays until the domain is asked to end.

. /work/lib

# One way, as iperf3 words it.
# shellcheck disable=SC2154
measures() {
    iperf3 --client "$server" --time 5 --format m "$@" >/tmp/measured 2>&1
    status=$?
    sed 's/^/iperf: /' /tmp/measured >/dev/console
    rate=$(sed -n 's/.* \([0-9.]*\) Mbits\/sec *receiver/\1/p' /tmp/measured | tail -n 1)
    echo "RESULT iperf $* mbit=$rate" >/dev/console
    [ $status = 0 ] && [ "${rate%%.*}" -gt 0 ]
}

export PATH=/usr/bin:$PATH
await test -e /sys/class/net/eth0
check iperf-dhcp udhcpc -i eth0 -n -q -t 10 -s /work/dhcp
if [ -z "$server" ]; then
    echo "iperf: serves"
    exec iperf3 --server
fi
is_up() {
    iperf3 --client "$server" --time 1
}
await is_up
check iperf-sends measures
check iperf-receives measures --reverse
check iperf-sends-by-four measures --parallel 4
check iperf-receives-by-four measures --parallel 4 --reverse
echo "iperf: is done"
exec sleep 1000
