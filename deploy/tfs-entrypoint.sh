#!/bin/sh
# TensorFlow Serving's image by its variables: the model MODEL_NAME below MODEL_BASE_PATH, HTTP on 8501.
# Further flags of tensorflow_model_server may follow. --port is given so that the log says that there is no gRPC yet.
set -eu
name=${MODEL_NAME:-model}
exec thriftserve tfs --port=8500 --rest_api_port=8501 \
    --model_name="$name" --model_base_path="${MODEL_BASE_PATH:-/models}/$name" "$@"
