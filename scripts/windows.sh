# shellcheck shell=bash
# Builds for Windows on this machine, and runs under wine what was built: the unit tests, and the tests that play osquery
# on the other side of a named pipe.
#
# Debian's compiler (scripts/targets.sh) and its C compiler for Windows make programs of Windows' GNU flavour. std is
# built from source, once for each version of the compiler. What wine is not: it has no ETW, and its services,
# processes and rights are only much like Windows' own (docs/platforms.md).

windows_target=x86_64-pc-windows-gnu

# What wine 8 cannot show: it takes no notice of FILE_FLAG_FIRST_PIPE_INSTANCE, so that a pipe's name can be had twice. A
# part of a test is told so by AGENTQUERY_UNDER_WINE.
windows_skipped=(--skip socket::tests::a_server_is_not_replaced_while_it_lives)

# wine64 is the program, wine the command that finds its own libraries.
windows_packages() {
    want gcc-mingw-w64-x86-64-posix command -v x86_64-w64-mingw32-gcc-posix
    want wine64 test -e /usr/lib/wine/wine64
    want wine command -v wine
}

# Why it cannot be done here; nothing when it can.
windows_obstacle() {
    local missing=()
    windows_packages
    if [ "$(uname -s -m)" != "Linux x86_64" ]; then
        echo "it needs Linux on x86_64"
    elif [ ${#missing[@]} != 0 ] && [ "$EUID" != 0 ]; then
        echo "not root, and missing (Debian's names): ${missing[*]}"
    elif [ -z "$(targets_packages)" ] && ! { apt-get update -qq && [ -n "$(targets_packages)" ]; } &>/dev/null; then
        echo "rustc-web and rust-web-src are not in this system's package lists (Debian has them)"
    fi
}

# windows_tests [FILTER...]
windows_tests() {
    local home duckdb cache=$AGENTQUERY_CACHE/windows
    home=$(targets_compiler)
    [ -e "$home/windows" ] || windows_sysroot "$home"
    duckdb=$(duckdb_folder win32-x64)
    mkdir -p "$cache"
    say "building for $windows_target and running under wine"
    (
        # One at a time: a prefix belongs to one.
        exec 9>"$cache/lock"
        flock 9
        windows_prefix "$cache/prefix" "$duckdb" 9>&-
        export WINEPREFIX=$cache/prefix WINEARCH=win64 WINEDEBUG=-all AGENTQUERY_UNDER_WINE=1
        trap 'wineserver --kill' EXIT
        export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc-posix
        export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUSTFLAGS="--sysroot $home/windows"
        export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
        export CC_x86_64_pc_windows_gnu=x86_64-w64-mingw32-gcc-posix AR_x86_64_pc_windows_gnu=x86_64-w64-mingw32-ar
        # cargo, which snapshots ask for their folder, is not to be had inside.
        export INSTA_WORKSPACE_ROOT=$PWD INSTA_UPDATE=no
        # The dependencies are not optimised: here building takes longer than the tests do.
        RUSTC=$(targets_program "$home" rustc) DUCKDB_LIB_DIR=$duckdb DUCKDB_INCLUDE_DIR=$duckdb \
            cargo test --locked --package agentquery --lib --bins --test pipe \
            --target "$windows_target" --target-dir "$cache/target" \
            --config 'profile.dev.package."*".opt-level=0' --config 'profile.dev.debug=false' -- \
            "${windows_skipped[@]}" "$@" 9>&-
    )
    say "the tests passed under $(wine --version)"
}

# windows_sysroot HOME: std for Windows, built as the compiler's own build does.
windows_sysroot() {
    local home=$1 part=$1/windows.part lib object
    lib=$part/lib/rustlib/$windows_target/lib
    say "building the standard library for $windows_target"
    rm -rf "$part"
    mkdir -p "$lib"
    (
        # Nothing is linked with the DLLs of std: a linker that makes empty files will do.
        local linker=$PWD/scripts/empty-output
        cd "$home/compiler/usr/lib/rustlib/src/rust/library" || exit
        RUSTC=$(targets_program "$home" rustc) RUSTC_BOOTSTRAP=1 __CARGO_DEFAULT_LIB_METADATA=sysroot \
            RUSTFLAGS="-Cembed-bitcode=no -Zforce-unstable-if-unmarked --cap-lints=allow -Clinker=$linker" \
            cargo build --release --locked --features panic-unwind --package sysroot \
            --target-dir "$home/windows-std" --target "$windows_target"
        # What stands at the begin and the end of each program, for unwinding.
        for object in rsbegin rsend; do
            RUSTC_BOOTSTRAP=1 "$(targets_program "$home" rustc)" --target "$windows_target" -O --crate-type lib --emit obj \
                -o "$lib/$object.o" "rtstartup/$object.rs"
        done
    )
    cp "$home/windows-std/$windows_target"/release/deps/*.rlib "$lib"
    rm -r "$home/windows-std"
    mv "$part" "$home/windows"
}

# windows_prefix FOLDER DUCKDB: a Windows of wine's, with the libraries that programs find in its system32.
windows_prefix() {
    local prefix=$1 duckdb=$2 part=$1.part system32
    if [ ! -e "$prefix" ]; then
        say "making a prefix of wine's"
        rm -rf "$part"
        WINEPREFIX=$part WINEARCH=win64 WINEDEBUG=-all wineboot --init </dev/null &>/dev/null
        WINEPREFIX=$part wineserver --wait
        # wine 8 has no bcryptprimitives.dll, of which std wants one function.
        system32=$part/drive_c/windows/system32
        [ -e "$system32/bcryptprimitives.dll" ] || x86_64-w64-mingw32-gcc-posix -shared -O2 -xc - -ladvapi32 \
            -o "$system32/bcryptprimitives.dll" <<'C'
unsigned char SystemFunction036(void *to, unsigned long size);  /* RtlGenRandom */
__declspec(dllexport) int ProcessPrng(unsigned char *to, unsigned long long size) {
    return SystemFunction036(to, (unsigned long)size);
}
C
        mv "$part" "$prefix"
    fi
    ln -sf "$duckdb/duckdb.dll" "$prefix/drive_c/windows/system32/duckdb.dll"
}
