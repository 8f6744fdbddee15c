#!/bin/sh
# Installs what the project needs and nothing else has installed yet. Every step can be repeated, and does nothing when
# there is nothing to do.
#
#   dev/setup.sh venv        Python dependencies from the lock into .venv
#   dev/setup.sh packages    Debian packages (as root, where apt is); elsewhere it says what is missing
#   dev/setup.sh peers       Debian packages that bench/backup.py measures beside ours (as root, Debian 12)
#   dev/setup.sh programs    Kubernetes, DNS, S3 and Helm from Go modules, into the cache
set -eu
cd "$(dirname "$0")/.."

# package:what it is wanted for. A program that came another way (Docker's own containerd, say) is left as it is.
PACKAGES="buildah:buildah ca-certificates:/etc/ssl/certs/ca-certificates.crt conntrack:conntrack containerd:ctr
containernetworking-plugins:/usr/lib/cni/bridge debootstrap:debootstrap gcc:cc iproute2:tc iptables:iptables libc6-dev:/usr/include/stdio.h mount:losetup
nftables:nft procps:sysctl runc:runc spin:spin util-linux:nsenter xfsprogs:mkfs.xfs"

say() { echo "setup: $*" >&2; }

apt_install() {
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "not installed: $*; install them with your system's package manager (names are Debian's)"
        return 1
    fi
    say "installing $*"
    log=$(mktemp)
    # Services that packages would start (containerd) are none of ours: ours run with their own settings.
    if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -yq --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        say "apt-get could not install $*; all it said is in $log"
        return 1
    fi
    rm -f "$log"
}

packages() {
    [ "$(uname -s)" = Linux ] || { say "not Linux: packages are left to you"; return 0; }
    missing=""
    for entry in $PACKAGES; do
        wanted=${entry#*:}
        [ -e "$wanted" ] || command -v "$wanted" >/dev/null || [ -e "/opt/cni/bin/${wanted##*/}" ] ||
            missing="$missing ${entry%%:*}"
    done
    # Any Go from 1.21 on fetches the version it needs by itself; Debian's is only asked for where there is none.
    command -v go >/dev/null || missing="$missing golang-go"
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || apt_install $missing
}

python() {
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null && "$candidate" -c '
import sys
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    say "Python 3.11, 3.12 or 3.13 is needed; install one, or set PYTHON to it"
    return 1
}

# The inner loops of backups (native.py says more), where there is a compiler: it works without.
native() {
    source=operator/matriarch/backup/native.c
    made=.venv/lib/matriarch/native-$(sha256sum "$source" | cut -c1-12).so
    if [ ! -e "$made" ] && command -v cc >/dev/null; then
        mkdir -p .venv/lib/matriarch
        cc -std=gnu11 -O2 -shared -fPIC -o "$made.$$" "$source" && mv "$made.$$" "$made" || rm -f "$made.$$"
    fi
}

venv() {
    lock=requirements/dev.txt
    wanted=$(cksum <"$lock")
    if [ -x .venv/bin/python ] && [ "$(cat .venv/.lock 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
        native
        return 0
    fi
    chosen=$(python)
    "$chosen" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
    say "installing the locked Python dependencies into .venv"
    [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$chosen" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$lock" </dev/null
    echo "$wanted" >.venv/.lock
    native
}

peers() {
    missing=""
    [ -x /usr/lib/postgresql/15/bin/postgres ] || missing="$missing postgresql-15"
    for program in pgbackrest openssl; do command -v "$program" >/dev/null || missing="$missing $program"; done
    command -v barman-cloud-backup >/dev/null || missing="$missing barman-cli-cloud"
    # shellcheck disable=SC2086 # a list of words
    [ -z "$missing" ] || apt_install $missing
}

programs() {
    .venv/bin/python -m dev.programs >/dev/null
}

for step in "$@"; do
    case $step in
    packages | venv | programs | peers) "$step" ;;
    *) say "unknown step $step"; exit 2 ;;
    esac
done
