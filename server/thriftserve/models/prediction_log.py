"""Requests as TensorFlow Serving logs them, without its protos installed.

bytes of a PredictionLog  --decode-->  Recorded("serving_default", {"x": array}, ("y",)), …
(signature, inputs, outputs)  --encode-->  bytes of a PredictionLog

The numbers are those of tensorflow_serving/apis: prediction_log, predict, classification, regression, inference,
input and model. What a request calls its model is not looked at: a version's file is about that version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from thriftserve.models.session import Array, Arrays
from thriftserve.models.signature import DEFAULT_SIGNATURE
from thriftserve.models.tensor_proto import decode as decode_tensor
from thriftserve.models.tensor_proto import encode as encode_tensor
from thriftserve.repository.protobuf import CorruptFile, fields, packed_field

_CLASSIFY, _REGRESS, _MULTI, _SESSION_RUN, _PREDICT, _STREAMED = 2, 3, 4, 5, 6, 7
_REQUEST = 1
_SPEC, _INPUTS, _FILTER = 1, 2, 3
_SPEC_NAME, _SPEC_SIGNATURE = 1, 3
_KEY, _VALUE = 1, 2
_EXAMPLE_LIST, _WITH_CONTEXT = 1, 2
_EXAMPLES, _CONTEXT = 1, 2


class Unsupported(Exception):
    """A record of a kind that is not run; the message says which."""


@dataclass(frozen=True)
class RecordedRequest:
    """A request: the signature that it calls, and with what."""

    signature: str
    inputs: Mapping[str, Array] = field(default_factory=dict)
    #: Outputs wanted; empty: all.
    outputs: Sequence[str] = ()
    #: Serialised tf.Example messages, for the signature's only input; None: `inputs` are given by name.
    examples: Sequence[bytes] | None = None


def decode(message: bytes) -> list[RecordedRequest]:
    """The requests of one record: one, or one a task of a MultiInference.

    Raises:
        Damaged: it can't be read.
        Unsupported: it is of a kind that is not run.
    """
    # Among the fields of a oneof, the last one holds.
    found = [one for one in fields(memoryview(message)) if _CLASSIFY <= one.number <= _STREAMED]
    if not found:
        raise CorruptFile("it has no request in it")
    log = found[-1]
    if log.number == _SESSION_RUN:
        raise Unsupported("a SessionRun request names tensors of the graph, and only signatures are served")
    requests = [one.content for one in fields(log.content) if one.number == _REQUEST]
    if not requests:
        raise CorruptFile("it has no request in it")
    if log.number in (_PREDICT, _STREAMED):
        return [_predict(one) for one in requests]
    if log.number == _MULTI:
        return _multi(requests[-1])
    signature, examples = _with_examples(requests[-1])
    return [RecordedRequest(signature, examples=examples)]


def encode(model: str, signature: str, inputs: Arrays, outputs: Sequence[str] = ()) -> bytes:
    """A PredictionLog with a PredictRequest.

    Raises:
        TensorError: an input has a type that requests can't carry.
    """
    spec = packed_field(_SPEC_NAME, model.encode()) + packed_field(_SPEC_SIGNATURE, signature.encode())
    request = packed_field(_SPEC, spec)
    for name, array in inputs.items():
        entry = packed_field(_KEY, name.encode()) + packed_field(_VALUE, encode_tensor(array))
        request += packed_field(_INPUTS, entry)
    request += b"".join(packed_field(_FILTER, name.encode()) for name in outputs)
    return packed_field(_PREDICT, packed_field(_REQUEST, request))


def _predict(request: memoryview) -> RecordedRequest:
    signature, inputs, outputs = DEFAULT_SIGNATURE, dict[str, Array](), list[str]()
    for one in fields(request):
        if one.number == _SPEC:
            signature = _signature(one.content)
        elif one.number == _INPUTS:
            parts = {each.number: each.content for each in fields(one.content)}
            name = _text(parts.get(_KEY, memoryview(b"")))
            inputs[name] = decode_tensor(parts.get(_VALUE, memoryview(b"")))
        elif one.number == _FILTER:
            outputs.append(_text(one.content))
    return RecordedRequest(signature, inputs, outputs)


def _with_examples(request: memoryview) -> tuple[str, list[bytes]]:
    """Signature and examples of a ClassificationRequest or RegressionRequest."""
    signature, examples = DEFAULT_SIGNATURE, list[bytes]()
    for one in fields(request):
        if one.number == _SPEC:
            signature = _signature(one.content)
        elif one.number == _INPUTS:
            examples = list(_examples(one.content))
    return signature, examples


def _multi(request: memoryview) -> list[RecordedRequest]:
    signatures, examples = list[str](), list[bytes]()
    for one in fields(request):
        if one.number == _REQUEST:  # a task
            specs = [each.content for each in fields(one.content) if each.number == _SPEC]
            signatures.append(_signature(specs[-1]) if specs else DEFAULT_SIGNATURE)
        elif one.number == _INPUTS:
            examples = list(_examples(one.content))
    return [RecordedRequest(one, examples=examples) for one in signatures]


def _examples(message: memoryview) -> Iterator[bytes]:
    """The examples of an Input; what all of them share stands before each, for messages one after the other merge."""
    for kind in fields(message):
        if kind.number not in (_EXAMPLE_LIST, _WITH_CONTEXT):
            continue
        shared = b"".join(
            bytes(one.content)
            for one in fields(kind.content)
            if kind.number == _WITH_CONTEXT and one.number == _CONTEXT
        )
        yield from (shared + bytes(one.content) for one in fields(kind.content) if one.number == _EXAMPLES)


def _signature(spec: memoryview) -> str:
    named = [_text(one.content) for one in fields(spec) if one.number == _SPEC_SIGNATURE]
    return named[-1] if named and named[-1] else DEFAULT_SIGNATURE


def _text(content: memoryview) -> str:
    try:
        return bytes(content).decode()
    except UnicodeDecodeError:
        raise CorruptFile("a name is not UTF-8") from None
