# shellcheck shell=bash
# Packages of the program: what belongs into them is put together here, and packed as extension/Cargo.toml says.

# Pinned, built once, and kept in $AGENTQUERY_CACHE/tools.
package_tool() {
    local name=${1%@*}
    [ -x "$AGENTQUERY_CACHE/tools/$1/bin/$name" ] && return 0
    say "building $1"
    CARGO_TARGET_DIR=$AGENTQUERY_CACHE/tools/target \
        cargo install --quiet --locked --root "$AGENTQUERY_CACHE/tools/$1" "$1"
}

# package_tool_run TOOL@VERSION ARGS
package_tool_run() {
    local tool=$1
    shift
    "$AGENTQUERY_CACHE/tools/$tool/bin/${tool%@*}" "$@"
}

cargo_deb=cargo-deb@3.8.0
cargo_rpm=cargo-generate-rpm@0.21.1
cargo_sbom=cargo-cyclonedx@0.5.9

package_tools() {
    local tool
    for tool in "$cargo_sbom" "$cargo_deb" "$cargo_rpm"; do
        package_tool "$tool"
    done
}

# package_files PROGRAM FOLDER: what goes into a package.
package_files() {
    local program=$1 share=$2
    rm -rf "$share"
    mkdir -p "$share"
    # The library is found beside the program, and nowhere else.
    cp "$program" "$share/program"
    patchelf --set-rpath "\$ORIGIN" "$share/program"
    strip --strip-debug "$share/program"
    cp "$DUCKDB_LIB_DIR/libduckdb.so" "$share/libduckdb.so"
    "$program" generate "$share"
    gzip --best --no-name "$share"/*.1
    if [ -e "$DUCKDB_LIB_DIR/LICENSE" ]; then
        cp "$DUCKDB_LIB_DIR/LICENSE" "$share/LICENSE-DuckDB"
    else
        echo "DuckDB: MIT, https://github.com/duckdb/duckdb/blob/main/LICENSE" >"$share/LICENSE-DuckDB"
    fi
    package_tool_run "$cargo_sbom" cyclonedx --quiet --format json --spec-version 1.5 --manifest-path extension/Cargo.toml \
        --override-filename agentquery.cdx
    packaging/sbom.py extension/agentquery.cdx.json "$share/libduckdb.so" >"$share/agentquery.cdx.json"
    rm extension/agentquery.cdx.json
}

# package_all [--quick PROGRAM] [DIR]: of the release, or of a program that is built already, for a test: not compressed.
package_all() {
    local profile=release folder=$CARGO_TARGET_DIR/release deb=() rpm=() program
    if [ "${1:-}" = --quick ]; then
        program=$2 profile=dev folder=$CARGO_TARGET_DIR/debug deb=(--fast) rpm=(--payload-compress none)
        shift 2
    else
        cargo build --locked --release --package agentquery --bin agentquery
        program=$folder/agentquery
    fi
    local output=${1:-$folder/packages}
    mkdir -p "$output"
    package_tools
    package_files "$program" "$folder/share"
    package_tool_run "$cargo_deb" --quiet --no-build --no-strip --profile "$profile" --package agentquery \
        --output "$output" "${deb[@]}"
    package_tool_run "$cargo_rpm" generate-rpm --package extension --profile "$profile" --output "$output" "${rpm[@]}"
    say "in $output: $(cd "$output" && echo *)"
}
