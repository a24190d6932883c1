#!/usr/bin/env bash
# The stubs from the contract.
#
#   idl/thriftserve.thrift  -->  thrift --gen py:enum,slots  -->  gen-py/thriftserve_idl
#
# With --check it changes nothing and fails where the stubs that are there differ. A second argument names
# another place for them than gen-py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

check=
if [ "${1:-}" = --check ]; then
    check=1
    shift
fi
target=${1:-gen-py}
compiler=$(idl/compiler.sh)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

"$compiler" -strict -out "$fresh" --gen py:enum,slots idl/thriftserve.thrift
# Left out: a package marker for gen-py itself, and command lines without types or timeouts.
rm -f "$fresh/__init__.py" "$fresh"/thriftserve_idl/*-remote

if [ -n "$check" ]; then
    if ! diff -ru --exclude=__pycache__ "$target/thriftserve_idl" "$fresh/thriftserve_idl"; then
        echo "$target/thriftserve_idl differs from idl/thriftserve.thrift: run 'make idl' and commit what it changes" >&2
        exit 1
    fi
else
    mkdir -p "$target"
    rm -rf "$target/thriftserve_idl"
    cp -r "$fresh/thriftserve_idl" "$target/"
fi
