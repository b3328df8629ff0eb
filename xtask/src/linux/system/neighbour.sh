#!/bin/busybox sh
# Serves a file by HTTP, /data, with its checksum, /crc; and fetches what others serve: another such guest's (linux=URL), and so many bytes (bytes=N)
# with a checksum (crc=CRC32) of a guest in Rust (rust=URL), both by IPv6 too (linux6=URL, rust6=URL). Stays until the domain is asked to end.

. /work/lib

# fetches_from_linux URL
fetches_from_linux() {
    wget -q -O /tmp/data "$1/data" && [ "$(crc32 </tmp/data)" = "$(wget -q -O - "$1/crc")" ]
}

# fetches_from_rust URL
# shellcheck disable=SC2154
fetches_from_rust() {
    [ "$(wget -q -O - "$1/bytes/$bytes" | crc32)" = "$crc" ]
}

await test -e /sys/class/net/eth0
check neighbour-dhcp udhcpc -i eth0 -n -q -t 10 -s /work/dhcp
mkdir /tmp/www
dd if=/dev/urandom of=/tmp/www/data bs=64k count=256 2>/dev/null
crc32 </tmp/www/data >/tmp/www/crc
httpd -h /tmp/www -p 80
echo "neighbour: serves"
if [ -n "$linux" ]; then
    # shellcheck disable=SC2154
    is_up() {
        wget -q -O /dev/null "$linux/crc" && wget -q -O /dev/null "$linux6/crc"
    }
    await is_up || await is_up || await is_up
    begin_count rx
    check neighbour-fetches-from-linux fetches_from_linux "$linux"
    check neighbour-fetches-from-linux-by-ipv6 fetches_from_linux "$linux6"
    check neighbour-receives-segments-together is_large rx
    # shellcheck disable=SC2154
    {
        check neighbour-fetches-from-rust fetches_from_rust "$rust"
        check neighbour-fetches-from-rust-by-ipv6 fetches_from_rust "$rust6"
    }
fi
exec sleep 1000
