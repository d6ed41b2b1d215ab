# shellcheck shell=bash
# The eBPF objects and the Rust types of the kernel's records. They are committed, so that a build needs no clang, and
# compared with their sources by ./dev lint.

bpf_outputs=(bpf/agentquery.x86_64.bpf.o bpf/agentquery.aarch64.bpf.o extension/src/collect/linux/abi.rs)

# The tool at the version that built what is committed, or else whichever there is.
bpf_tool() {
    command -v "$1-$(<bpf/CLANG_VERSION)" || command -v "$1"
}

bpf_clang_version() {
    "$(bpf_tool clang)" -dumpversion | cut -d. -f1
}

# libbpf's headers come from the crate that Cargo.lock pins: the system's differ from machine to machine.
bpf_libbpf() {
    local manifest
    manifest=$(cargo metadata --locked --format-version 1 | grep -o '"manifest_path":"[^"]*/libbpf-sys[^"/]*/Cargo.toml"')
    manifest=${manifest#*:\"}
    echo "${manifest%/Cargo.toml\"}/libbpf"
}

# bpf_build OUT: writes each of bpf_outputs below the folder OUT.
bpf_build() {
    local out=$1 clang strip libbpf arch
    # The numbers of system calls are taken from this system's headers.
    [ "$(uname -m)" = x86_64 ] || die "the eBPF objects, also that for aarch64, are built on x86_64"
    clang=$(bpf_tool clang) strip=$(bpf_tool llvm-strip) libbpf=$(bpf_libbpf)
    mkdir -p "$out"/{bpf,headers,extension/src/collect/linux}
    ln -sfn "$libbpf/src" "$out/headers/bpf" # they are included as <bpf/...>
    for arch in x86_64:x86 aarch64:arm64; do
        # __x86_64__ is for <asm/bitsperlong.h>; no path of this machine may get into the object.
        "$clang" -O2 -g -target bpf -mcpu=v3 "-D__TARGET_ARCH_${arch#*:}" -D__x86_64__ -Wall -Werror \
            -ffile-prefix-map="$PWD=." -ffile-prefix-map="$out/headers=." -ffile-prefix-map="$libbpf=libbpf" \
            -I bpf -I "$out/headers" -I "$libbpf/include/uapi" -I /usr/include/x86_64-linux-gnu \
            -c bpf/agentquery.bpf.c -o "$out/bpf/agentquery.${arch%:*}.bpf.o"
        "$strip" -g "$out/bpf/agentquery.${arch%:*}.bpf.o" # BTF stays
    done
    bpf_abi "$out/extension/src/collect/linux/abi.rs"
}

# bpf_abi FILE: sizes are asserted in event.h, for C, and by hand, for Rust.
bpf_abi() {
    {
        echo "// Generated from bpf/event.h by ./dev bpf ($(bindgen --version))."
        echo
        bindgen bpf/event.h --disable-header-comment --no-layout-tests --no-rustfmt-bindings \
            --allowlist-type 'aq_.*' --allowlist-var 'AQ_.*' --default-enum-style consts
    } >"$1"
    rustfmt --edition 2024 --config-path . "$1"
}

bpf_write() {
    local out file
    out=$(mktemp -d)
    bpf_build "$out"
    for file in "${bpf_outputs[@]}"; do
        cp "$out/$file" "$file"
    done
    bpf_clang_version >bpf/CLANG_VERSION
    rm -r "$out"
}

# Another compiler makes other bytes: then the sources are known to compile, and no more.
bpf_check() {
    local out file other=()
    out=$(mktemp -d)
    bpf_build "$out"
    [ "$(bpf_clang_version)" = "$(<bpf/CLANG_VERSION)" ] || other+=("clang $(<bpf/CLANG_VERSION)")
    grep -qF "($(bindgen --version))" "${bpf_outputs[2]}" || other+=("the bindgen named in ${bpf_outputs[2]}")
    if [ ${#other[@]} -gt 0 ]; then
        say "WARNING: ${bpf_outputs[*]} WERE NOT COMPARED with their sources: missing ${other[*]}"
        [ "${CI:-}" != true ] || exit 1
    else
        for file in "${bpf_outputs[@]}"; do
            cmp "$out/$file" "$file" || die "$file is not what its source gives: ./dev bpf"
        done
    fi
    rm -r "$out"
}
