#!/bin/busybox sh
# What Xen's toolstack runs when a device of a guest's comes or goes: the disk is loop0, the network this domain's own.

export PATH=/usr/bin:/bin:/sbin:/usr/sbin
# shellcheck disable=SC2154
case "$1 $XENBUS_PATH" in
add*/vbd/*)
    xenstore-write "$XENBUS_PATH/physical-device" 7:0 "$XENBUS_PATH/hotplug-status" connected
    ;;
online*/vif/*)
    ip address add 10.10.1.1/24 dev "$vif"
    ip link set "$vif" up
    printf 'start 10.10.1.2\nend 10.10.1.9\ninterface %s\nlease_file /tmp/leases\noption subnet 255.255.255.0\noption router 10.10.1.1\n' "$vif" >/tmp/udhcpd
    : >/tmp/leases
    udhcpd /tmp/udhcpd
    xenstore-write "$XENBUS_PATH/hotplug-status" connected
    ;;
esac
exit 0
