# shellcheck shell=bash
# DuckDB's library. The official one comes in a package of npm and is taken by version and checksum, so that nobody
# compiles its C++. It is kept in $AGENTQUERY_CACHE/duckdb.

# What there is for a system: version of DuckDB, the package's release of it, and its checksum (npm's "integrity" in hex).
duckdb_package() {
    case $1 in
    linux-x64) echo "1.5.6 r.1 21772b64913a904a8cd19e30c1d5671811d7fdface4b7dd53cd0300d743f43e16cf386f4e7c41ef78721ac208870d2651bc6375072145387817824315b998dd5" ;;
    # The newest that there is for Windows.
    win32-x64) echo "1.5.5 r.5 9811859fc9deb53fc00212b84ce1ba170e3bf836faf02c4256d43da9fc5973591902376cf9a62b875ec577fbb909b4c377120bb2b732b85f2af5c51c9b9e2440" ;;
    linux-arm64) echo "1.5.5 r.5 09a7c7d8022f5eda700f29c6dca07fe2e10e1d11a516807b6ae091308c07dc128d2286ec00d5792d2a43277b5fc9108522c2ba7bc013d5eb1e5959eed83bf773" ;;
    esac
}

# npm is wanted only where nothing else brings the package.
duckdb_packages() {
    want npm command -v npm
}

# Sets DUCKDB_LIB_DIR, which the build reads. One that is set, and a library that the system has, come first.
duckdb() {
    local system
    [ -z "${DUCKDB_LIB_DIR:-}" ] || return 0
    if pkg-config --atleast-version=1.5.5 duckdb 2>/dev/null && ! pkg-config --atleast-version=1.6 duckdb; then
        DUCKDB_LIB_DIR=$(pkg-config --variable=libdir duckdb)
        export DUCKDB_LIB_DIR
        return 0
    fi
    system=$(uname -s -m)
    case $system in
    "Linux x86_64") system=linux-x64 ;;
    "Linux aarch64") system=linux-arm64 ;;
    esac
    DUCKDB_LIB_DIR=$(duckdb_folder "$system")
    export DUCKDB_LIB_DIR
}

# duckdb_folder SYSTEM: where the official library of a system is kept, which is fetched when it is not there.
duckdb_folder() {
    local system=$1 version release checksum folder file=libduckdb.so
    read -r version release checksum <<<"$(duckdb_package "$system")"
    [ -n "$version" ] || die "no built libduckdb is known for $system: set DUCKDB_LIB_DIR to the folder of one of DuckDB" \
        "1.5, or compile it (an hour and more): cargo build --release --features bundled"
    folder=$AGENTQUERY_CACHE/duckdb/$version
    case $system in
    win32-*) file=duckdb.dll folder+=-$system ;;
    esac
    [ -e "$folder/$file" ] || duckdb_fetch "$folder" "node-bindings-$system" "$version-$release" "$checksum" "$file"
    echo "$folder"
}

# duckdb_fetch FOLDER PACKAGE VERSION CHECKSUM FILE. npm comes first, for it obeys the user's registry.
duckdb_fetch() {
    local folder=$1 package=$2 version=$3 checksum=$4 file=$5 part
    say "fetching libduckdb ($package $version)"
    mkdir -p "$folder"
    part=$(mktemp -d "$folder.XXXXXX")
    if command -v npm >/dev/null; then
        duckdb_npm "$part" "$package@$version"
    else
        curl -fsSL --retry 3 -o "$part/package.tgz" "https://registry.npmjs.org/@duckdb/$package/-/$package-$version.tgz" || {
            need duckdb
            duckdb_npm "$part" "$package@$version"
        }
    fi
    echo "$checksum  $part/package.tgz" | sha512sum --check --status ||
        die "$package $version is not what it was: its checksum differs; nothing of it was kept but $part"
    tar -xzf "$part/package.tgz" -C "$part" --no-same-owner "package/$file" package/LICENSE
    mv "$part"/package/* "$folder"
    rm -r "$part"
}

# duckdb_npm FOLDER PACKAGE
duckdb_npm() {
    (cd "$1" && npm pack --silent "@duckdb/$2" >/dev/null 2>&1) || die "npm pack @duckdb/$2 failed; is the registry reachable?"
    mv "$1"/*.tgz "$1/package.tgz"
}
