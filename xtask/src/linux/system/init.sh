#!/bin/busybox sh
# The first process: makes the system usable, loads the kernel's modules, and does what the command line says (work=NAME), or else gives a shell.
# With root=DEVICE it hands over to the system on that disk.

/bin/busybox mkdir -p /bin /dev /mnt /proc /sbin /sys /tmp
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
# Programs that are there are not replaced.
/bin/busybox --install -s 2>/dev/null

# The kernel runs these when its domain is asked to end; busybox' own would ask its own init.
for end in poweroff reboot; do
    rm -f "/sbin/$end"
    printf '#!/bin/busybox sh\nexec /bin/busybox %s -f\n' "$end" >"/sbin/$end"
    chmod 755 "/sbin/$end"
done

while read -r module || [ -n "$module" ]; do
    words=$(tr ' ' '\n' </proc/cmdline | sed -n "s/^$module\.//p")
    # shellcheck disable=SC2086
    insmod "/lib/modules/$module.ko" $words || echo "CHECK init-loads-$module FAILED: insmod"
done </lib/modules/order

# The kernel keeps this word for itself.
root=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^root=//p')
if [ -n "$root" ]; then
    . /work/lib
    await test -b "$root"
    if mount -t ext4 -o ro "$root" /mnt; then
        umount /dev /proc /sys
        exec switch_root /mnt /sbin/init
    fi
    echo "CHECK init-mounts-$root FAILED: mount"
fi

# shellcheck disable=SC2154
if [ -x "/work/${work:=shell}" ]; then
    "/work/$work"
    echo "CHECK work-is-done ok"
else
    echo "CHECK init-knows-$work FAILED: there is no such script"
fi
# By its path: busybox' shell has one of its own.
exec /sbin/poweroff
