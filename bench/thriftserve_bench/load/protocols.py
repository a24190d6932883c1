"""How each system is called: the same samples, in its own bytes.

Sample  --CallProtocol.request-->  bytes  -->  (the server)  -->  a reply  --CallProtocol.check-->  right | WrongAnswer

thrift   framed binary, the contract's own predict and classify: ours and Apache's
http     HTTP/1.1, the content itself as the body; what comes back is float32, or class numbers and scores
json     HTTP/1.1 and JSON, base64 for everything but a few numbers
content  the bodies of `http` without HTTP: what a gRPC message carries
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from thrift.Thrift import TMessageType

from thriftserve_bench.workloads.jobs import TOP, Job, Sample, WrongAnswer, check_classes, check_values
from thriftserve_bench.workloads.messages import LENGTH, classify_frame, message_frame, predict_frame, read_reply
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import (
    Classification,
    ClassifyRequest,
    ClassifyResponse,
    DataType,
    ImageClassification,
    ModelSpec,
    PredictRequest,
    PredictResponse,
    Tensor,
)

#: The bytes of a reply, or its beginning.
Buffer = bytes | memoryview
#: The name that models are served under.
MODEL = "model"
_PATH = {"http": "/inference", "json": "/predict"}
_HEADER_END = b"\r\n\r\n"
_LONGEST_HEADER_BYTES = 8192
_CONTENT_LENGTH = b"content-length:"


@dataclass(frozen=True)
class CallProtocol:
    """One way to call a server.

    Attributes:
        request: encodes a sample.
        length: returns the bytes of a reply by its beginning, or 0 while that is unknown.
        check: compares a complete reply; raises WrongAnswer, or whatever its decoding raises.
    """

    request: Callable[[Job, Sample], bytes]
    length: Callable[[Buffer], int]
    check: Callable[[Job, bytes, Sample], None]


def thrift_request(job: Job, sample: Sample) -> bytes:
    """Encode a framed call: classify for a file, else predict."""
    if job.name == "jpeg":
        return classify_frame(ClassifyRequest(model_spec=ModelSpec(name=MODEL), images=[sample.content], top_k=TOP))
    tensor = Tensor(dtype=DataType.FLOAT, shape=list(sample.shape), content=sample.content)
    return predict_frame(PredictRequest(model_spec=ModelSpec(name=MODEL), inputs={job.input: tensor}))


def thrift_answer(job: Job, sample: Sample) -> bytes:
    """Encode the framed reply to a sample's `thrift_request`: its answer, with scores of 0."""
    spec = ModelSpec(name=MODEL)
    if job.name == "jpeg":
        classes = [Classification(label=str(number), score=0.0, class_id=int(number)) for number in sample.answer]
        results = [ImageClassification(classes=classes)]
        result: Any = Predict.classify_result(success=ClassifyResponse(model_spec=spec, results=results))
    else:
        shape = list(sample.answer.shape)
        tensor = Tensor(dtype=DataType.FLOAT, shape=shape, content=sample.answer.tobytes())
        result = Predict.predict_result(success=PredictResponse(model_spec=spec, outputs={job.output: tensor}))
    return message_frame("classify" if job.name == "jpeg" else "predict", TMessageType.REPLY, result)


def thrift_length(beginning: Buffer) -> int:
    """Return a frame's length, which is in its first four bytes."""
    return LENGTH.size + int.from_bytes(beginning[:4], "big") if len(beginning) >= LENGTH.size else 0


def thrift_check(job: Job, reply: bytes, sample: Sample) -> None:
    """Search a reply for the answer's bytes; decode it if they may differ or are missing."""
    if job.name == "tiny" and sample.answer.tobytes() in reply:
        return
    message = reply[LENGTH.size :]
    result = read_result(job, message)
    if job.name == "jpeg":
        check_classes(_classes(result), sample.answer)
        return
    if result.error is not None:
        raise WrongAnswer(str(result.error))
    check_values(np.frombuffer(result.success.outputs[job.output].content, np.float32), sample.answer.ravel())


def read_result(job: Job, message: bytes) -> Any:
    """Decode the `predict_result` or `classify_result` of a reply: `success` or `error` is set."""
    return read_reply(message, "classify" if job.name == "jpeg" else "predict")


def _classes(result: Any) -> list[int]:
    if result.error is not None:
        raise WrongAnswer(str(result.error))
    return [best.class_id for best in result.success.results[0].classes]


def content_request(_: Job, sample: Sample) -> bytes:
    """Return the content itself."""
    return sample.content


def content_check(job: Job, reply: bytes, sample: Sample) -> None:
    """Compare float32 values, or class numbers (int32) that their scores follow."""
    if job.name == "tiny" and reply == sample.answer.tobytes():
        return
    if job.name == "jpeg":
        check_classes(np.frombuffer(reply, np.int32)[:TOP].tolist(), sample.answer)
    else:
        check_values(np.frombuffer(reply, np.float32), sample.answer.ravel())


def http_request(job: Job, sample: Sample) -> bytes:
    """Encode a POST of the content."""
    return _post(_PATH["http"], "application/octet-stream", sample.content)


def json_request(job: Job, sample: Sample) -> bytes:
    """Encode a POST of the content as JSON."""
    if job.name == "tiny":
        body = {"x": np.frombuffer(sample.content, np.float32).tolist()}
        return _post(_PATH["json"], "application/json", json.dumps(body).encode())
    text = base64.b64encode(sample.content).decode()
    return _post(_PATH["json"], "application/json", json.dumps({"content": text}).encode())


def _post(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def http_length(beginning: Buffer) -> int:
    """Return a reply's length by its header.

    Raises:
        WrongAnswer: the header has no length.
    """
    beginning = bytes(beginning[:_LONGEST_HEADER_BYTES])
    end = beginning.find(_HEADER_END)
    if end < 0:
        return 0
    head = beginning[:end].lower()
    place = head.find(_CONTENT_LENGTH)
    if place < 0:
        raise WrongAnswer("a reply without a Content-Length")
    return end + len(_HEADER_END) + int(head[place + len(_CONTENT_LENGTH) :].split(b"\r\n", 1)[0])


def _body(reply: bytes) -> bytes:
    head, _, body = reply.partition(_HEADER_END)
    if head[9:12] != b"200":
        raise WrongAnswer(f"{head[:40]!r}: {body[:100]!r}")
    return body


def http_check(job: Job, reply: bytes, sample: Sample) -> None:
    """Check the body of a reply with status 200."""
    content_check(job, _body(reply), sample)


def json_check(job: Job, reply: bytes, sample: Sample) -> None:
    """Check a JSON body of a reply with status 200."""
    body = json.loads(_body(reply))
    if job.name == "tiny":
        check_values(np.array(body["y"], np.float32), sample.answer)
    else:
        content_check(job, base64.b64decode(body["content"]), sample)


PROTOCOLS = {
    "thrift": CallProtocol(thrift_request, thrift_length, thrift_check),
    "http": CallProtocol(http_request, http_length, http_check),
    "json": CallProtocol(json_request, http_length, json_check),
    "content": CallProtocol(content_request, len, content_check),
}
