#!/usr/bin/env bash
# Says where the files of a machine are on which nothing is installed but a small Debian of the same release as this
# system, or its like: made once, and kept in $AGENTQUERY_CACHE. Nobody is to write there.
set -euo pipefail

cache=${AGENTQUERY_CACHE:-${HOME:?}/.cache/agentquery}
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
base=$cache/machine-$release
mkdir -p "$cache"
exec 9>"$base.lock"
flock 9
if [ ! -d "$base" ]; then
    {
        rm -rf "$base.part"
        /usr/sbin/debootstrap --variant=minbase --include=init-system-helpers,rpm "$release" "$base.part"
        # What the packages need, by whatever name.
        chroot "$base.part" apt-get install --yes --no-install-recommends libelf1 libstdc++6 zlib1g
        chroot "$base.part" apt-get clean
        mv "$base.part" "$base"
    } >&2
fi
echo "$base"
