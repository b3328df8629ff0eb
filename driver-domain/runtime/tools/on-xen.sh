#!/usr/bin/env bash
# Runs a guest as domain 0 of a real Xen in QEMU: the oracle for whether the runtime speaks the ABI.
#
#   on-xen.sh GUEST.elf [WORD...]     the words are the guest's command line
#
# Needs qemu-system-x86_64 and a Xen hypervisor of version 4.17 or near it (Debian: package
# xen-hypervisor-4.17-amd64); installs nothing. Settings, all optional:
#   XEN=FILE        the hypervisor, plain or gzipped (else the first /boot/xen-*.gz)
#   MEMORY=SIZE     the guest's memory, in Xen's notation (64M)
#   CPU=MODEL       QEMU's CPU model (qemu64)
#   XEN_ARGS=TEXT   more of Xen's command line, such as loglvl=all
#   TIMEOUT=S       seconds until it is given up (60)
# Status: 0 if the guest powered off, 1 if it crashed, 2 if neither happened in time.
set -euo pipefail

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 64; }
[ $# -ge 1 ] && [ -f "$1" ] || usage
guest=$1
shift

xen=${XEN:-$(compgen -G '/boot/xen-*.gz' | head -n 1 || true)}
[ -f "$xen" ] || { echo "no Xen hypervisor found: set XEN to one" >&2; exit 64; }
command -v qemu-system-x86_64 >/dev/null || { echo "qemu-system-x86_64 is not installed" >&2; exit 64; }

work=$(mktemp -d)
qemu=
cleanup() { [ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
case $xen in *.gz) gzip -dc "$xen" >"$work/xen" ;; *) cp "$xen" "$work/xen" ;; esac
mkfifo "$work/serial"

timeout "${TIMEOUT:-60}" qemu-system-x86_64 -accel tcg -machine pc -cpu "${CPU:-qemu64}" -m 1G \
    -nodefaults -display none -serial stdio -no-reboot -kernel "$work/xen" \
    -append "com1=115200 console=com1 guest_loglvl=all dom0_mem=${MEMORY:-64M} ${XEN_ARGS:-}" \
    -initrd "$guest${*:+ $*}" </dev/null >"$work/serial" 2>"$work/errors" &
qemu=$!

# Xen halts after its domain 0 does; there is no need to wait for that.
status=2
while IFS= read -r line; do
    printf '%s\n' "${line%$'\r'}"
    case $line in
    *'(XEN) Hardware Dom0 halted'*) status=0; break ;;
    *'(XEN) Hardware Dom0 crashed'* | *'(XEN) Hardware Dom0 rebooted'* | *'(XEN) Domain 0 crashed'*) status=1; break ;;
    esac
done <"$work/serial"
[ $status -ne 2 ] || cat "$work/errors" >&2
exit $status
