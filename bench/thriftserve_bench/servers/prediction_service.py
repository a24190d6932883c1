"""The messages and the method between the two halves of the published HTTP stack: TensorFlow Serving's.

    descriptors written out here  --protobuf-->  PredictRequest, PredictResponse

Names and numbers of the fields are TensorFlow Serving's, so that bytes and work are those of its own generated
classes. Those come in a package (tensorflow-serving-api) that installs all of TensorFlow once more.
"""

from __future__ import annotations

from functools import cache
from typing import Any

METHOD = "/tensorflow.serving.PredictionService/Predict"
_PACKAGE = "tensorflow.serving"
_TENSOR = ".tensorflow.TensorProto"


@cache
def messages() -> tuple[Any, Any]:
    """Return the classes PredictRequest and PredictResponse; imports TensorFlow, whose TensorProto they contain."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    file = descriptor_pb2.FileDescriptorProto(
        name="thriftserve_bench/predict.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[tensor_pb2.DESCRIPTOR.name],
    )
    spec = file.message_type.add(name="ModelSpec")
    _add_field(spec, "name", 1)
    _add_field(spec, "signature_name", 3)
    request = file.message_type.add(name="PredictRequest")
    _add_field(request, "model_spec", 1, f".{_PACKAGE}.ModelSpec")
    _add_tensors(request, "inputs", 2)
    response = file.message_type.add(name="PredictResponse")
    _add_tensors(response, "outputs", 1)
    pool = descriptor_pool.Default()
    pool.Add(file)
    types = [pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in ("PredictRequest", "PredictResponse")]
    return message_factory.GetMessageClass(types[0]), message_factory.GetMessageClass(types[1])


def _add_field(message: Any, name: str, number: int, type_name: str = "", *, repeated: bool = False) -> None:
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    field.type = field.TYPE_MESSAGE if type_name else field.TYPE_STRING
    if type_name:
        field.type_name = type_name


def _add_tensors(message: Any, name: str, number: int) -> None:
    """Add a field map<string, TensorProto>, which on the wire is a list of pairs."""
    pair = message.nested_type.add(name=f"{name.capitalize()}Entry")
    pair.options.map_entry = True
    _add_field(pair, "key", 1)
    _add_field(pair, "value", 2, _TENSOR)
    _add_field(message, name, number, f".{_PACKAGE}.{message.name}.{pair.name}", repeated=True)
