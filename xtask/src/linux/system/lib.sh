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
