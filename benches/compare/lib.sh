# shellcheck shell=bash disable=SC2034 # most of the variables are for who sources this
# What every up and down shares: where things are, the certificate, the account, and how a server is started and stopped.
#
# A server has a directory of its own, $compare/NAME, with `target.json` (what the load generator needs to know, there
# while the server is up), `pid` and `log`. Everything listens on 127.0.0.1 alone.

set -euo pipefail

compare=${TMPDIR:-/tmp}/gatepost-compare
tls=$compare/tls

# One account for all. Its password is published here: it opens nothing but servers on loopback.
user=alice@example.test
password=correct-horse-battery-staple
# argon2id as `gatepost account` makes it (19 MiB, 2 passes), for gatepost and Dovecot.
# shellcheck disable=SC2016 # not variables
argon2id='$argon2id$v=19$m=19456,t=2,p=1$Q29tcGFyZVBlZXJzU2FsdA$SjL1z9KsmMKhAmYhi3cjg7VcXLBGUvrBUVudkUvfVxs'
# yescrypt as Debian makes it, for those that know crypt(3) alone: about as dear.
# shellcheck disable=SC2016
yescrypt='$y$j9T$ComparePeersSalt$syCpWs/YZkii19FOv/5hdzea4Go4WznXzUHiYoHPZD4'

die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "$1 needs root: it lives in a root directory of its own, with its own users"; }

# set_aside DIRECTORY...: takes what an earlier turn left in them out of the way. `run` removes it when all is over, and not
# before: on ext4, making files is slow for half a minute after many have been removed.
set_aside() {
    local directory to
    mkdir -p "$compare/aside"
    for directory in "$@"; do
        [ -d "$directory" ] || continue
        to=$(mktemp -d "$compare/aside/XXXXXX")
        find "$directory" -mindepth 1 -maxdepth 1 -exec mv -t "$to" -- {} +
    done
}

# need COMMAND PACKAGE: installs Debian's package if the command is missing.
need() {
    command -v "$1" >/dev/null && return
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null \
        || die "\`apt-get install $2\` failed: install it, or run \`apt-get update\` first"
}

# An authority made here, and a certificate by it for localhost (ECDSA P-256), made anew when it is about to expire.
make_certificate() {
    openssl x509 -in "$tls/chain.pem" -noout -checkend 86400 >/dev/null 2>&1 && return
    mkdir -p "$tls"
    local make=(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 30)
    "${make[@]}" -subj "/CN=comparison authority" -keyout "$tls/ca.key" -out "$tls/ca.pem" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign 2>/dev/null
    "${make[@]}" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -subj "/CN=localhost" -keyout "$tls/key.pem" -out "$tls/leaf.pem" \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=CA:FALSE -addext extendedKeyUsage=serverAuth 2>/dev/null
    # What a real server sends: its own certificate and the one above.
    cat "$tls/leaf.pem" "$tls/ca.pem" > "$tls/chain.pem"
    chmod 644 "$tls"/*.pem
}

# make_root NAME PACKAGE...: a minimal Debian with these packages in $compare/NAME/root, once. Debian's mail servers
# cannot be installed beside each other.
make_root() {
    local name=$1 root=$compare/$1/root packages
    shift
    packages=$(IFS=,; echo "$*")
    [ "$(cat "$compare/$name/installed" 2>/dev/null)" = "$packages" ] && return
    need mmdebstrap mmdebstrap
    rm -rf "${root:?}"
    mkdir -p "$compare/$name"
    echo "$name: installing $packages of Debian 13 into $root"
    mmdebstrap --variant=minbase --include="$packages" trixie "$root" >"$compare/$name/install.log" 2>&1 \
        || die "$name cannot be installed: see $compare/$name/install.log"
    echo "127.0.0.1 localhost mail.example.test" > "$root/etc/hosts"
    echo "mail.example.test" > "$root/etc/mailname"
    # Nobody outside is asked for names.
    echo "nameserver 127.0.0.1" > "$root/etc/resolv.conf"
    echo "$packages" > "$compare/$name/installed"
}

# When a process began, in clock ticks since boot: with it, a pid names one process and no later one.
began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" { print $20 }'; }

# The pid of a server that `start` started and that is still there.
running() {
    local pid start
    read -r pid start 2>/dev/null < "$compare/$1/pid" || return 1
    [ "$(began "$pid")" = "$start" ] && echo "$pid"
}

# start NAME COMMAND...: in the background and in a session of its own, so that Ctrl-C does not reach it.
start() {
    local name=$1 pid
    shift
    running "$name" >/dev/null && die "$name is up already: $name/down stops it"
    rm -f "$compare/$name/pid"
    (
        ulimit -n "$(ulimit -Hn)"
        # Before there is anything to stop: `stop` finds it whenever this script is interrupted.
        pid=$BASHPID
        echo "$pid $(began "$pid")" > "$compare/$name/pid"
        exec setsid "$@" </dev/null >"$compare/$name/log" 2>&1
    ) &
}

# start_in_root NAME SCRIPT: runs the script with $root, in namespaces of its own: nothing that it mounts or starts
# outlives it, whatever became of its parents.
start_in_root() {
    # shellcheck disable=SC2016 # for the inner shell
    start "$1" unshare --mount --pid --fork --kill-child=KILL "${traced[@]}" bash -ec '
        root=$1
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        eval "$2"' "$1" "$compare/$1/root" "$2"
}

# With TRACE_SYNCS=FILE the server is started under strace, which writes each sync there and leaves other calls alone.
traced=()
if [ -n "${TRACE_SYNCS:-}" ]; then
    # shellcheck disable=SC2054 # the commas are strace's
    traced=(strace -D -f -q --seccomp-bpf -e trace=fsync,fdatasync,sync,syncfs,sync_file_range -e signal=none -o "$TRACE_SYNCS")
fi

# ready NAME PORT...: waits until the server greets on each of them, 15 seconds at most.
ready() {
    local name=$1 port
    shift
    for port in "$@"; do
        timeout 15 bash -c "until (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.05; done" \
            || { tail -n 5 "$compare/$name/log" >&2; die "$name does not listen on 127.0.0.1:$port"; }
    done
}

# target NAME STARTTLS_PORT IMPLICIT_PORT VERSION HASH: says to `run` that the server is up, and where.
target() {
    cat > "$compare/$1/target.json" <<JSON
{"name": "$1", "version": "$4", "hash": "$5", "pid": $(running "$1"),
 "starttls": "127.0.0.1:$2", "implicit": "127.0.0.1:$3", "authority": "$tls/ca.pem",
 "user": "$user", "password": "$password"}
JSON
    echo "$1: up on 127.0.0.1, STARTTLS on port $2, implicit TLS on port $3"
}

# stop NAME SIGNAL: ends the server and all that it started, and waits until it is gone.
stop() {
    local name=$1 signal=$2 pid count
    rm -f "$compare/$name/target.json"
    if pid=$(running "$name"); then
        for count in $(seq 200); do
            # In namespaces of its own, the first process there takes all others with it.
            if [ "$count" = 1 ]; then kill -s "$signal" "$(pgrep -P "$pid" || echo "$pid")" 2>/dev/null || true; fi
            if [ "$count" = 150 ]; then kill -s KILL "$pid" 2>/dev/null || true; fi
            running "$name" >/dev/null || break
            sleep 0.1
        done
        ! running "$name" >/dev/null || die "$name does not stop: process $pid"
    fi
    rm -f "$compare/$name/pid"
    echo "$name: down"
}
