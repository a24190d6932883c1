"""How each contestant is spoken to: the same questions, in its own bytes.

Question  --Dialect.request-->  bytes  -->  (the server)  -->  a reply  --Dialect.check-->  right | WrongAnswer

thrift   framed binary, the contract's own predict and classify: ours and Apache's
http     HTTP/1.1, the content itself as the body; what comes back is float32, or class numbers and scores
json     HTTP/1.1 and JSON, what is not a few numbers as base64
content  the bodies of `http` without HTTP: what a gRPC message carries
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from thriftserve_bench.workloads.jobs import TOP, Job, Sample, WrongAnswer, check_classes, check_values
from thriftserve_bench.workloads.messages import LENGTH, message_frame, predict_frame, read_reply
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

#: The name that models are served under.
MODEL = "model"
_PATH = {"http": "/inference", "json": "/predict"}
_HEADER_END = b"\r\n\r\n"
_CONTENT_LENGTH = b"content-length:"


@dataclass(frozen=True)
class Dialect:
    """One way to ask.

    Attributes:
        request: the bytes of a question.
        length: bytes of a whole reply, by its beginning; 0 while that can't be told.
        check: compares a whole reply; raises WrongAnswer, or whatever its decoding raises.
    """

    request: Callable[[Job, Sample], bytes]
    length: Callable[[bytes], int]
    check: Callable[[Job, bytes, Sample], None]


def thrift_request(job: Job, question: Sample) -> bytes:
    """A framed call: classify for a file, else predict."""
    if job.name == "jpeg":
        return _classify_frame(question.content)
    tensor = Tensor(dtype=DataType.FLOAT, shape=list(question.shape), content=question.content)
    return predict_frame(PredictRequest(model_spec=ModelSpec(name=MODEL), inputs={job.input: tensor}))


def _classify_frame(file: bytes) -> bytes:
    request = ClassifyRequest(model_spec=ModelSpec(name=MODEL), images=[file], top_k=TOP)
    return message_frame("classify", TMessageType.CALL, Predict.classify_args(request=request))


def thrift_answer(job: Job, question: Sample, request: bytes) -> bytes:
    """The framed reply to a question's `thrift_request`: its answer, with scores that nobody looks at."""
    asked = TBinaryProtocolAccelerated(TMemoryBuffer(request[LENGTH.size :]), fallback=False)
    name, _, _ = asked.readMessageBegin()
    spec = ModelSpec(name=MODEL)
    if job.name == "jpeg":
        classes = [Classification(label=str(number), score=0.0, class_id=int(number)) for number in question.answer]
        results = [ImageClassification(classes=classes)]
        result: Any = Predict.classify_result(success=ClassifyResponse(model_spec=spec, results=results))
    else:
        shape = list(question.answer.shape)
        tensor = Tensor(dtype=DataType.FLOAT, shape=shape, content=question.answer.tobytes())
        result = Predict.predict_result(success=PredictResponse(model_spec=spec, outputs={job.output: tensor}))
    return message_frame(name, TMessageType.REPLY, result)


def thrift_length(beginning: bytes) -> int:
    """A frame's length stands in its first four bytes."""
    return LENGTH.size + int.from_bytes(beginning[:4], "big") if len(beginning) >= LENGTH.size else 0


def thrift_check(job: Job, reply: bytes, question: Sample) -> None:
    """Looks for the answer's bytes; decodes where they may differ, or are not there."""
    if job.name == "tiny" and question.answer.tobytes() in reply:
        return
    message = reply[LENGTH.size :]
    result = read_result(job, message)
    if job.name == "jpeg":
        check_classes(_classes(result), question.answer)
        return
    if result.error is not None:
        raise WrongAnswer(str(result.error))
    check_values(np.frombuffer(result.success.outputs[job.output].content, np.float32), question.answer.ravel())


def read_result(job: Job, message: bytes) -> Any:
    """The `predict_result` or `classify_result` of a reply: `success` or `error` is set."""
    if job.name != "jpeg":
        return read_reply(message)
    protocol = TBinaryProtocolAccelerated(TMemoryBuffer(message), string_length_limit=len(message), fallback=False)
    _, kind, _ = protocol.readMessageBegin()
    if kind != TMessageType.REPLY:
        raise WrongAnswer(f"a message of type {kind}")
    result = Predict.classify_result()
    result.read(protocol)
    return result


def _classes(result: Any) -> list[int]:
    if result.error is not None:
        raise WrongAnswer(str(result.error))
    return [one.class_id for one in result.success.results[0].classes]


def content_request(_: Job, question: Sample) -> bytes:
    """The content itself."""
    return question.content


def content_check(job: Job, reply: bytes, question: Sample) -> None:
    """Compares float32 values, or class numbers (int32) that their scores follow."""
    if job.name == "tiny" and reply == question.answer.tobytes():
        return
    if job.name == "jpeg":
        check_classes(np.frombuffer(reply, np.int32)[:TOP].tolist(), question.answer)
    else:
        check_values(np.frombuffer(reply, np.float32), question.answer.ravel())


def http_request(job: Job, question: Sample) -> bytes:
    """A POST of the content."""
    return _post(_PATH["http"], "application/octet-stream", question.content)


def json_request(job: Job, question: Sample) -> bytes:
    """A POST of the content as JSON."""
    if job.name == "tiny":
        told = {"x": np.frombuffer(question.content, np.float32).tolist()}
        return _post(_PATH["json"], "application/json", json.dumps(told).encode())
    text = base64.b64encode(question.content).decode()
    return _post(_PATH["json"], "application/json", json.dumps({"content": text}).encode())


def _post(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def http_length(beginning: bytes) -> int:
    """A reply's length by its header.

    Raises:
        WrongAnswer: the header has no length.
    """
    end = beginning.find(_HEADER_END)
    if end < 0:
        return 0
    head = beginning[:end].lower()
    at = head.find(_CONTENT_LENGTH)
    if at < 0:
        raise WrongAnswer("a reply without a Content-Length")
    return end + len(_HEADER_END) + int(head[at + len(_CONTENT_LENGTH) :].split(b"\r\n", 1)[0])


def _body(reply: bytes) -> bytes:
    head, _, body = reply.partition(_HEADER_END)
    if head[9:12] != b"200":
        raise WrongAnswer(f"{head[:40]!r}: {body[:100]!r}")
    return body


def http_check(job: Job, reply: bytes, question: Sample) -> None:
    """The body of a reply with status 200."""
    content_check(job, _body(reply), question)


def json_check(job: Job, reply: bytes, question: Sample) -> None:
    """The same as JSON."""
    told = json.loads(_body(reply))
    if job.name == "tiny":
        check_values(np.array(told["y"], np.float32), question.answer)
    else:
        content_check(job, base64.b64decode(told["content"]), question)


DIALECTS = {
    "thrift": Dialect(thrift_request, thrift_length, thrift_check),
    "http": Dialect(http_request, http_length, http_check),
    "json": Dialect(json_request, http_length, json_check),
    "content": Dialect(content_request, len, content_check),
}
