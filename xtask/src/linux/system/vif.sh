#!/bin/busybox sh
# Asks the network for addresses, downloads from a peer (peer=ADDRESS) so many bytes (bytes=N) with a checksum (crc=CRC32), and
# serves them again, until the domain is asked to end.

. /work/lib

has_global_address() {
    ip -6 address show dev eth0 scope global | grep -q inet6
}

# download FILE URL: the file has the checksum then.
download() {
    wget -q -O "$1" "$2" && [ "$(crc32 <"$1")" = "$crc" ]
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
queues=$(ls -d /sys/class/net/eth0/queues/tx-* | wc -l) mtu=$(cat /sys/class/net/eth0/mtu)"
httpd -h $www -p 80
echo "vif: serves"
# shellcheck disable=SC2154
has_sent() {
    [ "$(statistic tx_bytes)" -gt $((bytes_before + bytes)) ]
}
begin_count tx
until has_sent; do
    usleep 200000
done
# Not cut by the guest: netback or the NIC does that.
check vif-sends-segments-together is_large tx
# The kernel ends all when its domain is asked to end.
exec sleep 1000
