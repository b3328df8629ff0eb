#!/bin/busybox sh
# Asks the network for addresses, downloads from a peer (peer=ADDRESS, peer6=ADDRESS) so many bytes (bytes=N) with a checksum (crc=CRC32), and
# serves them again, until the domain is asked to end.

. /work/lib

has_global_address() {
    ip -6 address show dev eth0 scope global | grep -q inet6
}

# download FILE URL: the file has the checksum then.
download() {
    wget -q -O "$1" "$2" && [ "$(crc32 <"$1")" = "$crc" ]
}

# per_frame WAY: bytes of a frame, on the average; a frame of segments is one.
per_frame() {
    statistics=/sys/class/net/eth0/statistics
    echo $(($(cat $statistics/"$1"_bytes) / $(cat $statistics/"$1"_packets)))
}

await test -e /sys/class/net/eth0
ip link set eth0 up
# shellcheck disable=SC2154
{
    check vif-dhcp udhcpc -i eth0 -n -q -t 10 -s /work/dhcp
    check vif-router-advertisement await has_global_address
    check vif-pings-gateway ping -c 5 -i 0.2 "$(ip route | sed -n 's/^default via \([^ ]*\).*/\1/p')"
    check vif-pings-peer ping -c 5 -i 0.2 "$peer"
    check vif-pings-gateway-by-ipv6 ping6 -c 5 -i 0.2 "$gateway6"
    www=/tmp/www
    mkdir -p $www/bytes
    check vif-downloads download "$www/bytes/$bytes" "http://$peer/bytes/$bytes"
}
echo "RESULT vif addresses=$(ip address show dev eth0 scope global | sed -n 's/^ *inet6* \([^ ]*\).*/\1/p' | tr '\n' ',') \
queues=$(ls -d /sys/class/net/eth0/queues/tx-* | wc -l) mtu=$(cat /sys/class/net/eth0/mtu) rx-per-frame=$(per_frame rx)"
httpd -h $www -p 80
echo "vif: serves"
sent=$(cat /sys/class/net/eth0/statistics/tx_bytes)
# shellcheck disable=SC2154
until [ "$(cat /sys/class/net/eth0/statistics/tx_bytes)" -gt $((sent + bytes)) ]; do
    usleep 200000
done
echo "RESULT vif tx-per-frame=$(per_frame tx)"
# The kernel ends all when its domain is asked to end.
exec sleep 1000
