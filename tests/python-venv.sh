#!/bin/sh
# Makes the Python environment of the tests, once, and prints the path of its interpreter.
# osquery's own Python bindings are what the tests check the protocol against: code that this project did not write.
set -eu
venv="${AGENTQUERY_CACHE:-$HOME/.cache/agentquery}/venv"
want='osquery==3.1.*'
if ! "$venv/bin/python" -c 'import osquery.extensions.ExtensionManager' 2>/dev/null; then
    python3 -m venv --clear "$venv" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$want" >&2
fi
echo "$venv/bin/python"
