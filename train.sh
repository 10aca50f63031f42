#!/bin/sh
# The old workflow's second command, with its eleven arguments: fetches, trains, evaluates, exports.
if ! python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("resight") is None)'; then
    printf "error: the package 'resight' is not installed\n  pip install '%s[tensorflow]'\n" "$(dirname "$0")" >&2
    exit 2
fi
exec python3 -m resight.cli.legacy_train "$@"
