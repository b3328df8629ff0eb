#!/bin/busybox sh
# Makes a file system on the first disk, fills it, and checks it; what stands on it is told as lines FILE NAME CRC32.

disk=/dev/xvda
. /work/lib

fill() {
    for directory in one two; do
        mkdir $mnt/$directory || return
        for file in 1 2 3 4; do
            dd if=/dev/urandom of=$mnt/$directory/$file bs=64k count=64 || return
        done
    done
    # Many small ones, and one that goes again.
    mkdir $mnt/many
    seq 200 | while read -r number; do
        echo "$number" >$mnt/many/"$number" || return
    done
    dd if=/dev/zero of=$mnt/gone bs=64k count=64 conv=fsync || return
    rm $mnt/gone
}

sums() {
    (cd $mnt && find . -type f | sort | while read -r file; do echo "$file $(crc32 <"$file")"; done)
}

await test -b $disk
queue=/sys/block/xvda/queue
echo "RESULT vbd queues=$(ls /sys/block/xvda/mq | wc -l) tags=$(cat /sys/block/xvda/mq/0/nr_tags) max-kib=$(cat $queue/max_hw_sectors_kb) \
segments=$(cat $queue/max_segments) cache=$(tr ' ' '-' <$queue/write_cache) discard=$(cat $queue/discard_max_bytes) sectors=$(cat /sys/block/xvda/size)"

mnt=/mnt
# By their paths: busybox has lesser ones of the same name.
check vbd-makes-ext4 /sbin/mke2fs -F -t ext4 $disk
check vbd-mounts mount -t ext4 $disk $mnt
check vbd-fills fill
sync
sums >/tmp/before
umount $mnt
check vbd-finds-it-whole /sbin/e2fsck -fn $disk
# From here on nothing of it is in the kernel's memory.
echo 3 >/proc/sys/vm/drop_caches
check vbd-mounts-again mount -t ext4 -o ro $disk $mnt
sums >/tmp/after
check vbd-reads-what-it-wrote cmp /tmp/before /tmp/after
sed -n 's,^\./,FILE ,p' /tmp/after | grep -v many
umount $mnt
