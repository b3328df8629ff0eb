#!/bin/busybox sh
# Has stress-ng do to the kernel what it can, checking what comes of it: one kind at a time, then all together, each for so many seconds (seconds=N).

. /work/lib

# shellcheck disable=SC2154
stress() {
    stress-ng --verify --temp-path /tmp --timeout "$seconds" "$@" >/tmp/stressed 2>&1
    status=$?
    sed 's/^/stress: /' /tmp/stressed >/dev/console
    [ $status = 0 ] && ! grep -iE 'fail:|error:' /tmp/stressed
}

has_no_complaint() {
    ! dmesg | grep -E 'BUG:|WARNING: CPU|Oops|Call Trace|detected stall|Out of memory|blocked for more'
}

export PATH=/usr/bin:$PATH
each=$(nproc)
check stress-cpu stress --cpu "$each"
check stress-vm stress --vm "$each" --vm-bytes 48M
check stress-fork stress --fork "$each"
check stress-mmap stress --mmap "$each" --mmap-bytes 32M
check stress-switch stress --switch "$each"
check stress-signal stress --signal "$each"
check stress-pipe stress --pipe "$each"
# What is most of a hypervisor's business, for less time.
for kind in fault fp-error ioport mprotect mremap opcode ptrace sysbadaddr tlb-shootdown userfaultfd vecmath vm-segv; do
    check "stress-$kind" stress --"$kind" "$each" --timeout 3
done
check stress-all stress --cpu 1 --vm 1 --vm-bytes 48M --fork 1 --mmap 1 --mmap-bytes 32M --switch 1 --signal 1 --pipe 1
check stress-leaves-no-complaint has_no_complaint
