#!/usr/bin/env bash
# Runs the unit that `agentquery install --root ROOT` has written, until stdin ends: tests/service.sh ROOT RUN
#
# A machine's systemd is not to be touched, and need not be there. So this is another one, a user's manager, which obeys
# the lines of a unit as the first one does. It has a control group and a mount namespace of its own, in which ROOT and
# RUN lie over the machine's directories; its processes are the machine's. Ends with 77 where that cannot be had.
set -euo pipefail

cannot() {
    echo "$*" >&2
    exit 77
}

outside() {
    local groups
    [ -x /usr/lib/systemd/systemd ] || cannot "systemd is not installed"
    groups=$(findmnt --noheadings --first-only --output TARGET --types cgroup2) || cannot "no control groups (version 2)"
    before=$groups$(sed -n 's/^0:://p' /proc/self/cgroup)
    group=$groups/agentquery-test-$$
    mkdir "$group" 2>/dev/null || cannot "no control group can be made"
    trap 'away "$group"' EXIT
    echo $$ >"$group/cgroup.procs"
    unshare --mount --cgroup "$0" --inside "$@"
}

# away GROUP: ends what is in it.
away() {
    local pid
    echo $$ >"$before/cgroup.procs"
    while [ -d "$1" ]; do
        find "$1" -name cgroup.procs -exec cat {} + | while read -r pid; do
            kill -KILL "$pid" 2>/dev/null || true
        done
        find "$1" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    done
}

inside() {
    local root=$1 run=$2
    mount --make-rprivate /
    mount --bind "$root/usr/local" /usr/local
    mount --bind "$root/var/lib" /var/lib
    mount --bind "$run" /run
    umount --recursive /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 none /sys/fs/cgroup
    mount -t bpf none /sys/fs/bpf
    mkdir -p /run/systemd/system /run/units/agentquery.service.d
    printf '[Unit]\n' | tee /run/units/{basic,shutdown}.target >/dev/null
    cp "$root/etc/systemd/system/agentquery.service" /run/units
    # There is no journal.
    printf '[Service]\nStandardError=file:/run/log\n' >/run/units/agentquery.service.d/log.conf
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/units HOME=/root
    export XDG_RUNTIME_DIR=/run XDG_CONFIG_HOME=/var/lib XDG_STATE_HOME=/var/lib
    /usr/lib/systemd/systemd --user --unit=basic.target --log-target=null &
    while ! systemctl --user is-active --quiet basic.target 2>/dev/null; do
        kill -0 $! 2>/dev/null || cannot "systemd ended"
        sleep 0.05
    done
    # To run but not to be believed: an error is told, and the test looks at the rest.
    systemctl --user start agentquery || true
    systemctl --user show --property MainPID --value agentquery
    read -r _ || true
    systemctl --user stop agentquery
    systemctl --user show --property Result --value agentquery
}

case ${1:-} in
--inside) inside "${@:2}" ;;
*) outside "$@" ;;
esac
