#!/usr/bin/env python3
"""Adds DuckDB's library, which cargo does not know of, to a bill of materials: sbom.py BOM LIBRARY. Writes it to stdout."""

import ctypes
import hashlib
import json
import sys


def main() -> None:
    bom_file, library = sys.argv[1:]
    with open(bom_file, encoding="utf-8") as file:
        bom = json.load(file)
    with open(library, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    duckdb = ctypes.CDLL(library)
    duckdb.duckdb_library_version.restype = ctypes.c_char_p
    version = duckdb.duckdb_library_version().decode().removeprefix("v")
    purl = f"pkg:github/duckdb/duckdb@v{version}"
    bom["components"].append(
        {
            "type": "library",
            "bom-ref": purl,
            "name": "duckdb",
            "version": version,
            "hashes": [{"alg": "SHA-256", "content": digest}],
            "licenses": [{"expression": "MIT"}],
            "purl": purl,
        }
    )
    top = bom["metadata"]["component"]["bom-ref"]
    for dependency in bom["dependencies"]:
        if dependency["ref"] == top:
            dependency.setdefault("dependsOn", []).append(purl)
    bom["dependencies"].append({"ref": purl})
    json.dump(bom, sys.stdout, indent=1)
    print()


main()
