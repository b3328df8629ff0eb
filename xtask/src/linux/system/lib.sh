# What scripts have in common: reports, and waiting.

# check NAME COMMAND..: runs it and reports.
check() {
    name=$1
    shift
    if "$@" >/tmp/said 2>&1; then
        echo "CHECK $name ok"
    else
        echo "CHECK $name FAILED: $(tail -n 3 /tmp/said | tr '\n' ' ')"
    fi
}

# await COMMAND..: until it succeeds, for 20 seconds at most.
await() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || return
        usleep 100000
    done
}

# statistic NAME: of the interface.
statistic() {
    cat "/sys/class/net/eth0/statistics/$1"
}

# begin_count WAY: of what is received (rx) or sent (tx) from now on.
begin_count() {
    bytes_before=$(statistic "$1_bytes")
    packets_before=$(statistic "$1_packets")
}

# is_large WAY: a frame had more than two of the wire's since then, on the average, as it has if several segments are one.
is_large() {
    per_frame=$((($(statistic "$1_bytes") - bytes_before) / ($(statistic "$1_packets") - packets_before)))
    echo "RESULT $1-per-frame=$per_frame" >/dev/console
    [ $per_frame -gt 3000 ]
}
