#!/usr/bin/env bash
# The stubs from the contracts.
#
#   idl/thriftserve.thrift         -->  thrift --gen py:enum,slots        -->  gen-py/thriftserve_idl
#   idl/thriftserve_proto/*.proto  -->  protoc --python_out --pyi_out     -->  gen-py/thriftserve_proto
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

idl/protoc.sh --proto_path=idl --python_out="$fresh" --pyi_out="$fresh" idl/thriftserve_proto/*.proto
echo '"""Messages of TensorFlow and TensorFlow Serving, generated from idl/thriftserve_proto by idl/generate.sh."""' \
    > "$fresh/thriftserve_proto/__init__.py"

for package in thriftserve_idl thriftserve_proto; do
    if [ -n "$check" ]; then
        if ! diff -ru --exclude=__pycache__ "$target/$package" "$fresh/$package"; then
            echo "$target/$package differs from what idl/ gives: run 'make idl' and commit what it changes" >&2
            exit 1
        fi
    else
        mkdir -p "$target"
        rm -rf "${target:?}/$package"
        cp -r "$fresh/$package" "$target/"
    fi
done
