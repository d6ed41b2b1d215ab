#!/bin/sh
# Makes the Python environment of the tests, once, and prints the path of its interpreter.
# osquery's own Python bindings are what the tests check the protocol against, pyarrow what they check Parquet against,
# and apsw is SQLite with virtual tables, as osquery's core has them: code that this project did not write.
set -eu
folder="${AGENTQUERY_CACHE:-$HOME/.cache/agentquery}"
venv="$folder/venv"
mkdir -p "$folder"
# Tests run side by side: one of them makes it.
exec 9>"$folder/venv.lock"
flock 9
if ! "$venv/bin/python" -c 'import osquery.extensions.ExtensionManager, pyarrow.dataset, apsw' 2>/dev/null; then
    python3 -m venv --clear "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'osquery==3.1.*' 'pyarrow==26.*' 'apsw==3.54.*' >&2
fi
echo "$venv/bin/python"
