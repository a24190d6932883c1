#!/usr/bin/env bash
# Runs the Protobuf compiler of the version that gen-py was made with; fetches it where there is none.
#
#   .venv/protoc | PyPI's grpcio-tools, unpacked there  -->  protoc ARGUMENT…
#
# `idl/protoc.sh --find` says only whether it is there. Code of protoc 28 runs on every protobuf from 5.28 on, up to
# TensorFlow 2.21's 7.x. grpcio-tools with that protoc asks for protobuf below 6, which TensorFlow 2.21 refuses: so it
# can't be in the extra `dev`, and lies beside the environment without what it asks for. The compiler needs none of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

package=grpcio-tools==1.68.1
folder=$PWD/.venv/protoc
python=${PYTHON:-$PWD/.venv/bin/python}

if [ ! -d "$folder/grpc_tools" ]; then
    if [ "${1:-}" = --find ]; then
        echo "idl/protoc.sh: no Protobuf compiler in $folder: run 'make idl'" >&2
        exit 1
    fi
    "$python" -m pip install --quiet --no-deps --target "$folder" "$package" >&2
fi
[ "${1:-}" = --find ] && exit 0
PYTHONPATH=$folder exec "$python" -m grpc_tools.protoc "$@"
