"""Calls that are like an earlier one except for their number, their tensors and the like, without decoding them.

    first call of a kind: decoded, checked, begun, encoded --> its MessageTemplate, a CallTemplate, its reply's template
    the next ones:  message --MessageTemplate--> parts that vary --CallTemplate--> task --run--> parts --> reply

A client asks for the same thing again and again. Nearly all the time of a small request goes into names, dtypes and
shapes that are known. Here a message is compared with an earlier one, byte by byte outside the parts that vary, and
what was found out then holds: 1.19-1.26 x the tiny requests a second (docs/explanation/decisions.md, "Call templates").
`--no-template-cache` turns it off.

The invariants: (1) A kind is learned only from a call that was decoded, checked and begun without an error, and only if
every part that varies is the whole of a field that the decoder read (a field sent twice, or of another type, is not
learned). (2) A hit differs from its template in those parts alone, and what may have changed since or may be wrong in a
part (the version that answers, the deadline, text) is checked at each hit. (3) A reply template is kept only if it
gives, byte for byte, the reply that the encoder made; a reply of another layout is encoded. (4) Whatever misses, is
late or fails is decoded from its own bytes as if it were the first, so there is one place for errors. (5) Nothing keeps
a version in memory, and the numbers of templates and their bytes are bounded. Binary protocol only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from struct import Struct
from typing import Any

from thriftserve.rpc.batch_processor import BatchProcessor, CallTemplate, Path, Span
from thriftserve.rpc.exchange import Exchange, PendingCall
from thriftserve.rpc.scan import LOST, Scanner

#: Larger messages spend their time elsewhere.
MAX_MESSAGE_BYTES = 8 * 1024
#: Callers choose what they send, so there must be limits: kinds of call of one size, of all, and replies of one kind.
#: The templates of a slot come to 2.5 MiB at most.
MAX_OF_A_SIZE, MAX_KINDS, MAX_REPLIES = 4, 64, 4
#: So many new kinds are learned as they come; after that one in so many, for kinds that never come again cost time.
LEARNED_AT_ONCE, LEARNED_EVERY = 32, 32


class TemplateCache:
    """The kinds of call that one slot has seen. One thread uses it.

    Args:
        exchange: decodes and encodes what no template fits.
        processor: makes the templates of its calls.
    """

    def __init__(self, exchange: Exchange, processor: BatchProcessor) -> None:
        self._exchange = exchange
        self._processor = processor
        #: By size of the message.
        self._kinds: dict[int, list[_Kind]] = {}
        self._misses = 0

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    @property
    def reply_templates(self) -> list[int]:
        """The number of reply templates of each kind of call."""
        return [len(kind.replies) for kinds in self._kinds.values() for kind in kinds]

    def begin(self, message: bytes, arrived: float) -> CachedCall | PendingCall | list[bytes]:
        """Begin the call that a message makes; arguments, result and errors as `Exchange.begin`."""
        for kind in self._kinds.get(len(message), ()):
            parts = kind.message.parts_of(message)
            if parts is not None:
                task = kind.call.task(parts, arrived)
                if task is None:
                    break
                return CachedCall(self._exchange, kind, message, arrived, parts[0], task)
        call = self._exchange.begin(message, arrived)
        if isinstance(call, list) or len(message) > MAX_MESSAGE_BYTES:
            return call
        self._misses += 1
        if self._misses <= LEARNED_AT_ONCE or not self._misses % LEARNED_EVERY:
            call.on_first_task = partial(self._learn, message)
        return call

    def _learn(self, message: bytes, call: PendingCall, task: Any) -> None:
        """Add the kind of a call that is right."""
        varying = self._processor.varying.get(call.name)
        template_and_spans = None if varying is None else message_template(message, varying[0])
        if varying is None or template_and_spans is None:
            return
        template, spans = template_and_spans
        call_template = self._processor.make_template(call.name, call.args, task, spans)
        if call_template is None:
            return
        if len(self) >= MAX_KINDS:
            self._kinds = {}
        others = [kind for kind in self._kinds.get(len(message), ()) if kind.message.parts_of(message) is None]
        kind = _Kind(call.name, template, call_template, varying[1])
        self._kinds[len(message)] = [kind, *others[: MAX_OF_A_SIZE - 1]]


class _Kind:
    """A kind of call."""

    __slots__ = ("call", "message", "name", "replies", "reply_paths")

    def __init__(self, name: str, message: MessageTemplate, call: CallTemplate, reply_paths: Sequence[Path]) -> None:
        self.name = name
        self.message = message
        self.call = call
        self.reply_paths = reply_paths
        #: By layout.
        self.replies: dict[Any, MessageTemplate] = {}


class CachedCall:
    """A call that a template fits, with its task: used as `PendingCall` is."""

    __slots__ = ("_arrived", "_decoded", "_exchange", "_kind", "_message", "_number", "_task", "parts", "size")

    def __init__(
        self, exchange: Exchange, kind: _Kind, message: bytes, arrived: float, number: bytes, task: Any
    ) -> None:
        self._exchange = exchange
        self._kind = kind
        self._message = message
        self._arrived = arrived
        self._number = number
        self._task = task
        #: The same call, decoded, if that was needed after all.
        self._decoded: PendingCall | None = None
        #: The encoded reply in segments once there is one, and its bytes.
        self.parts: list[bytes] = []
        self.size = 0

    def step(self, result: Any) -> Any:
        """Take the call to its run, or to its reply; see `PendingCall.step`."""
        if result is None:
            return self._task
        if self._decoded is not None or isinstance(result, BaseException):
            return self._step_decoded(result)
        kind, task = self._kind, self._task
        call = kind.call
        layout = call.layout(task, result)
        template = kind.replies.get(layout)
        if template is not None:
            call.count(task, result)
            reply = template.filled([self._number, *call.parts(task, result)])
            self.parts = [reply]
            self.size = len(reply)
            return None
        try:
            struct = call.result(task, result)
        except Exception as error:
            return self._step_decoded(error)
        call.count(task, result)
        exchange = self._exchange
        self.parts = exchange.write_result(kind.name, int.from_bytes(self._number, "big", signed=True), struct)
        self.size = exchange.size
        if layout is not None and self.size <= MAX_MESSAGE_BYTES:
            self._learn_reply(layout, [self._number, *call.parts(task, result)])
        return None

    def _step_decoded(self, result: Any) -> Any:
        """Take a step of the call as if it were the first of its kind: errors have one place."""
        call, task = self._decoded, self._task
        if call is None:
            begun = self._exchange.begin(self._message, self._arrived)
            if isinstance(begun, list):
                self.parts, self.size = begun, self._exchange.size
                return None
            self._decoded = call = begun
            task = call.step(None)
        if task is not None:  # otherwise it is late by now
            task = call.step(result)
        self.parts, self.size = call.parts, call.size
        return task

    def _learn_reply(self, layout: Any, parts: Sequence[bytes]) -> None:
        message = b"".join(self.parts)
        template_and_spans = message_template(message, self._kind.reply_paths)
        if template_and_spans is None:
            return
        template, spans = template_and_spans
        replies = self._kind.replies
        if len(spans) == len(parts) - 1 and template.filled(parts) == message and len(replies) < MAX_REPLIES:
            replies[layout] = template


class MessageTemplate:
    """A message, and where others may differ from it.

    >>> template = MessageTemplate(b"x = 12, y = 34;", [(4, 6), (12, 14)])
    >>> template.parts_of(b"x = 56, y = 78;")
    (b'56', b'78')
    >>> template.parts_of(b"x = 56, z = 78;") is None
    True
    >>> template.filled([b"90", b"12"])
    b'x = 90, y = 12;'

    Args:
        message: any of them.
        gaps: beginning and end of each part that varies, in order.
    """

    __slots__ = ("_fixed", "_pieces", "_unpack")

    def __init__(self, message: bytes, gaps: Iterable[tuple[int, int]]) -> None:
        at = 0
        layout = "="
        self._pieces: list[bytes] = []
        for start, end in gaps:
            layout += f"{start - at}s{end - start}s"
            self._pieces += (message[at:start], b"")
            at = end
        self._pieces.append(message[at:])
        self._unpack: Callable[[bytes], tuple[bytes, ...]] = Struct(f"{layout}{len(message) - at}s").unpack
        self._fixed = tuple(self._pieces[::2])

    def parts_of(self, message: bytes) -> tuple[bytes, ...] | None:
        """Return the parts that vary of a message of the same size; None if it differs elsewhere, too."""
        pieces = self._unpack(message)
        return pieces[1::2] if pieces[::2] == self._fixed else None

    def filled(self, parts: Sequence[bytes]) -> bytes:
        """Return the message with these parts, each of the size that it had."""
        pieces = self._pieces.copy()
        pieces[1::2] = parts
        return b"".join(pieces)


def message_template(message: bytes, paths: Sequence[Path]) -> tuple[MessageTemplate, list[Span]] | None:
    """Return the template of messages that differ in their number and at the ends of these paths.

    Returns:
        The template, whose first part is the message's number, and its other parts in their order; None if the message
        can't be followed.
    """
    scanner = Scanner(message)
    try:
        number = scanner.arguments - 4
        ends = sorted((span, path, keys) for path in paths for keys, span in scanner.reach(path))
    except LOST:
        return None
    template = MessageTemplate(message, [(number, number + 4), *(span for span, _, _ in ends)])
    return template, [Span(path, keys, message[slice(*span)]) for span, path, keys in ends]
