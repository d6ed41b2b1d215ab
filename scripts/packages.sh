# shellcheck shell=bash
# The system packages that a task needs, by their names in Debian and Ubuntu. Each is looked for by what it brings, so
# that any other way of installing it does as well.

# libbpf is compiled in; libelf and zlib are the system's.
build_packages() {
    want gcc command -v gcc
    want libc6-dev test -e /usr/include/stdio.h
    want make command -v make
    want pkg-config command -v pkg-config
    want libelf-dev test -e /usr/include/libelf.h
    want zlib1g-dev test -e /usr/include/zlib.h
    want ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
}

lint_packages() {
    want shellcheck command -v shellcheck
    want clang bpf_tool clang
    want llvm bpf_tool llvm-strip
    want bindgen command -v bindgen
}

test_packages() {
    want curl command -v curl
    want debootstrap test -x /usr/sbin/debootstrap
    want git command -v git
    want iproute2 command -v ip
    want less command -v less
    want openssl command -v openssl
    want python3 command -v python3
    want python3-venv python3 -c 'import ensurepip, venv'
    want systemd test -x /usr/lib/systemd/systemd
    want tmux command -v tmux
    want util-linux command -v unshare
}

package_packages() {
    want binutils command -v strip
    want patchelf command -v patchelf
    want python3 command -v python3
}

agents_packages() {
    want strace command -v strace
    want nodejs command -v node
    want npm command -v npm
}

# want PACKAGE CHECK...
want() {
    local package=$1
    shift
    "$@" &>/dev/null || missing+=("$package")
}

# need GROUP...: installs what is missing, or says what is.
need() {
    local missing=() group install
    for group in "$@"; do
        "${group}_packages"
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing (Debian's names): ${missing[*]}"
    install=(apt-get install --yes --no-install-recommends "${missing[@]}")
    if [ "$EUID" != 0 ]; then
        say "missing: ${missing[*]}"
        die "install with: sudo ${install[*]}"
    fi
    say "installing ${missing[*]}"
    install=(env DEBIAN_FRONTEND=noninteractive "${install[@]}" -o DPkg::Lock::Timeout=120 -qq)
    # Package lists are often absent or old: they are refreshed when that shows.
    "${install[@]}" </dev/null &>/dev/null || {
        apt-get update -qq </dev/null
        "${install[@]}" </dev/null >/dev/null
    }
}
