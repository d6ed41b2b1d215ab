# shellcheck shell=bash
# Type-checks the code for systems that this machine can't build for, and holds it against clippy. Nothing is linked and
# nothing runs.
#
# `cargo check` needs the standard library of each target, as metadata alone. It is made here from source, for std's
# source must be exactly the compiler's: both are taken from Debian (rustc-web), unpacked below the cache and not
# installed, and made once for each version.

targets=(x86_64-pc-windows-msvc aarch64-apple-darwin x86_64-apple-darwin aarch64-unknown-linux-gnu)

targets_check() {
    local home
    home=$(targets_compiler)
    [ -e "$home/sysroot" ] || targets_sysroot "$home"
    # Build scripts that compile C must succeed, but what they make isn't looked at: a compiler that makes empty files.
    # HOST_CC isn't set, so what runs on this machine is built by its own compiler.
    # Clippy's driver is a compiler that finds more: for the code of the workspace it stands in for rustc, as
    # `cargo clippy` has it.
    RUSTC=$(targets_program "$home" rustc) RUSTFLAGS="--sysroot $home/sysroot" \
        RUSTC_WORKSPACE_WRAPPER=$(targets_program "$home" clippy-driver) CLIPPY_ARGS="-Dwarnings__CLIPPY_HACKERY__" \
        TARGET_CC=$PWD/scripts/empty-output TARGET_AR=$PWD/scripts/empty-output \
        cargo check --locked --workspace --tests --keep-going --target-dir "$home/check" "${targets[@]/#/--target=}"
    say "clippy and the compiler are content with: ${targets[*]}"
}

# The folder of Debian's compiler, which is fetched when it isn't there, and of what is made with it.
targets_compiler() {
    local packages home
    packages=$(targets_packages)
    home=$(targets_home "$packages")
    if [ ! -e "$home/compiler" ]; then
        # Package lists are often absent or old.
        [ "$EUID" != 0 ] || apt-get update -qq </dev/null
        packages=$(targets_packages)
        [ -n "$packages" ] || die "rustc-web and rust-web-src are not in this system's package lists (Debian has them)"
        home=$(targets_home "$packages")
        targets_unpack "$home/compiler" "$packages"
    fi
    echo "$home"
}

# targets_home PACKAGES: where what is made from them is kept.
targets_home() {
    echo "$AGENTQUERY_CACHE/targets/$(echo "$1 ${targets[*]}" | sha256sum | cut -c1-12)"
}

# What apt would install for the compiler, one "package=version" a line; what is installed already isn't among it.
targets_packages() {
    { apt-get install --simulate --no-install-recommends rustc-web rust-web-src rust-web-clippy 2>/dev/null || true; } |
        sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p'
}

# targets_unpack DIR PACKAGES
targets_unpack() {
    local dir=$1 part=$1.part packages deb
    mapfile -t packages <<<"$2"
    say "fetching ${packages[*]}"
    rm -rf "$part"
    mkdir -p "$part/debs"
    (cd "$part/debs" && apt-get download -qq "${packages[@]}" 2>/dev/null) || die "apt-get download failed: ${packages[*]}"
    for deb in "$part"/debs/*.deb; do
        dpkg-deb --extract "$deb" "$part"
    done
    rm -r "$part/debs"
    mv "$part" "$dir"
}

# targets_program HOME NAME: a program of the compiler's, finding its libraries. The variable is for this program alone:
# exported to cargo it would reach build scripts.
targets_program() {
    local usr=$1/compiler/usr
    if [ ! -e "$1/$2" ]; then
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$usr/lib:$usr/lib/x86_64-linux-gnu" "$usr/bin/$2" >"$1/$2.part"
        chmod +x "$1/$2.part"
        mv "$1/$2.part" "$1/$2"
    fi
    echo "$1/$2"
}

# targets_sysroot HOME: std's metadata for all targets, built as the compiler's own build does.
targets_sysroot() {
    local home=$1 part=$1/sysroot.part target
    say "making the standard library's metadata for: ${targets[*]}"
    rm -rf "$part"
    (
        cd "$home/compiler/usr/lib/rustlib/src/rust/library" || exit
        RUSTC=$(targets_program "$home" rustc) RUSTC_BOOTSTRAP=1 __CARGO_DEFAULT_LIB_METADATA=sysroot \
            RUSTFLAGS="-Cembed-bitcode=no -Zforce-unstable-if-unmarked --cap-lints=allow" \
            cargo check --release --locked --features panic-unwind --package sysroot \
            --target-dir "$home/std" "${targets[@]/#/--target=}"
    )
    for target in "${targets[@]}"; do
        mkdir -p "$part/lib/rustlib/$target/lib"
        cp "$home/std/$target"/release/deps/*.rmeta "$part/lib/rustlib/$target/lib"
    done
    rm -r "$home/std"
    mv "$part" "$home/sysroot"
}
