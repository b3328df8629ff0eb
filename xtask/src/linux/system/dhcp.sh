#!/bin/busybox sh
# What udhcpc runs when something has happened to its lease.

# shellcheck disable=SC2154
case $1 in
deconfig)
    ip -4 address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip address add "$ip/$mask" dev "$interface"
    for gateway in $router; do
        ip route add default via "$gateway"
    done
    mkdir -p /etc
    for server in $dns; do
        echo "nameserver $server"
    done >/etc/resolv.conf
    ;;
esac
