"""Calls that are as an earlier one but for their number, their tensors and the like.

    first call of a kind: decoded, checked, begun, encoded --> its pattern, a Form, its answer's pattern
    the next ones:  message --Pattern--> the parts that vary --Form--> job --run--> parts --Pattern--> answer

A client asks for the same thing again and again. Of a small request, nearly all the time goes into finding out once
more what is known: names, dtypes, shapes, whether they fit the model, how the answer is laid out. Here a message
is compared with an earlier one, byte by byte outside the parts that vary, and what was found out then holds.
Whatever is not alike, late, or failed, goes the whole way. Binary protocol only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from thriftserve.rpc.scan import LOST, Scanner

if TYPE_CHECKING:
    from thriftserve.rpc.exchange import PendingCall

# Messages that are the same but for some of their parts.

#: Field numbers, from a message's struct down.
Path = tuple[int, ...]


class Span(NamedTuple):
    """A part of a message: which path led there, the keys of the maps on the way, and its bytes."""

    path: Path
    keys: tuple[bytes, ...]
    value: bytes


class MessageTemplate:
    """A message, and where others may differ from it.

    >>> pattern = MessageTemplate(b"x = 12, y = 34;", [(4, 6), (12, 14)])
    >>> pattern.parts_of(b"x = 56, y = 78;")
    (b'56', b'78')
    >>> pattern.parts_of(b"x = 56, z = 78;") is None
    True
    >>> pattern.made([b"90", b"12"])
    b'x = 90, y = 12;'

    Args:
        message: any of them.
        spans: beginning and end of each part that varies, in order.
    """

    __slots__ = ("_all", "_fixed", "_unpack")

    def __init__(self, message: bytes, spans: Iterable[tuple[int, int]]) -> None:
        at = 0
        layout = "="
        self._all: list[bytes] = []
        for start, end in spans:
            layout += f"{start - at}s{end - start}s"
            self._all += (message[at:start], b"")
            at = end
        self._all.append(message[at:])
        self._unpack: Callable[[bytes], tuple[bytes, ...]] = Struct(f"{layout}{len(message) - at}s").unpack
        self._fixed = tuple(self._all[::2])

    def parts_of(self, message: bytes) -> tuple[bytes, ...] | None:
        """The parts that vary of a message of the same size; None where it differs elsewhere, too."""
        every = self._unpack(message)
        return every[1::2] if every[::2] == self._fixed else None

    def made(self, parts: Sequence[bytes]) -> bytes:
        """The message with these parts, each of the size that it had."""
        every = self._all.copy()
        every[1::2] = parts
        return b"".join(every)


def template_of(message: bytes, paths: Sequence[Path]) -> tuple[MessageTemplate, list[Span]] | None:
    """The pattern of messages that differ in their number and at the ends of these paths.

    Returns:
        The pattern, whose first part is the message's number, and its other parts in their order; None where the
        message can't be followed.
    """
    walk = Scanner(message)
    try:
        number = walk.arguments - 4
        found = sorted((span, path, keys) for path in paths for keys, span in walk.reach(path))
    except LOST:
        return None
    pattern = MessageTemplate(message, [(number, number + 4), *(span for span, _, _ in found)])
    return pattern, [Span(path, keys, message[slice(*span)]) for span, path, keys in found]


#: Larger messages spend their time elsewhere.
MOST_BYTES = 8 * 1024
#: Callers choose what they send, so there must be limits: kinds of call of one size, of all, and of answers to one.
#: What is kept comes to 2.5 MiB a slot at most.
_OF_A_SIZE, _IN_ALL, _ANSWERS = 4, 64, 4
#: So many new kinds are learned as they come; after that one in so many, for kinds that never come again cost time.
_AT_ONCE, _EVERY = 32, 32

#: What varies from call to call of a method: paths of field numbers, through maps of structs to each of these. Those of
#: a call, from the arguments down; those of its reply, from the result down, in the order in which they are sent.
Varying = tuple[Sequence[Path], Sequence[Path]]


class CallTemplate(Protocol):
    """What was found out of a call, for those that are alike."""

    def job(self, parts: Sequence[bytes], arrived: float) -> Any:
        """What is to be run for a call with these parts; None: it has to be looked at as a whole.

        Args:
            parts: its number, and what varies in the order of the `Part`s that the form was made for.
            arrived: when it arrived, monotonic seconds.
        """

    def outline(self, job: Any, done: Any) -> Any:
        """What the answer's layout depends on, besides the form; None: it is one of a kind."""

    def count(self, job: Any, done: Any) -> None:
        """Counts a call that is being answered."""

    def result(self, job: Any, done: Any) -> Any:
        """The answer as the method's result struct."""

    def parts(self, job: Any, done: Any) -> list[bytes]:
        """The parts of the answer that vary, in their order."""


class _Known:
    """A kind of call."""

    __slots__ = ("answers", "form", "name", "pattern", "reply")

    def __init__(self, name: str, pattern: MessageTemplate, form: CallTemplate, reply: Sequence[Path]) -> None:
        self.name = name
        self.pattern = pattern
        self.form = form
        self.reply = reply
        #: By outline.
        self.answers: dict[Any, MessageTemplate] = {}


class SlowPath(Protocol):
    """What begins and answers calls the whole way: an `Exchange`."""

    #: Bytes of the answer just given.
    size: int

    def begin_whole(self, message: bytes, arrived: float) -> PendingCall | list[bytes]:
        """Reads a message and begins its call."""

    def write_result(self, name: str, seqid: int, result: Any) -> list[bytes]:
        """Encodes an answer."""


class TemplateCache:
    """The kinds of call that one connection, or one slot, has seen. One thread uses it.

    Args:
        whole: for what is not alike.
        varying: by method.
        form: makes the form of a call: of its method, its arguments, its first job, and its parts that vary, in their
            order; None: others like it go the whole way, too.
    """

    def __init__(
        self,
        whole: SlowPath,
        varying: Mapping[str, Varying],
        form: Callable[[str, Any, Any, Sequence[Span]], CallTemplate | None],
    ) -> None:
        self._whole = whole
        self._varying = varying
        self._form = form
        self._known: dict[int, list[_Known]] = {}
        self._missed = 0

    def begin(self, message: bytes, arrived: float) -> CachedCall | PendingCall | list[bytes]:
        """Begins the call that a message makes.

        Args:
            message: without its frame's length.
            arrived: when it arrived, monotonic seconds.

        Raises:
            BadMessage: it is no message of this protocol.
        """
        for known in self._known.get(len(message), ()):
            parts = known.pattern.parts_of(message)
            if parts is not None:
                job = known.form.job(parts, arrived)
                if job is None:
                    break
                return CachedCall(self._whole, known, message, arrived, parts[0], job)
        call = self._whole.begin_whole(message, arrived)
        if isinstance(call, list) or len(message) > MOST_BYTES:
            return call
        self._missed += 1
        if self._missed <= _AT_ONCE or not self._missed % _EVERY:
            call.on_first = partial(self._learn, message)
        return call

    def _learn(self, message: bytes, call: PendingCall, job: Any) -> None:
        """Keeps what there is to know of a call that was found to be right."""
        varying = self._varying.get(call.name)
        if varying is None:
            return
        found = template_of(message, varying[0])
        if found is None:
            return
        pattern, parts = found
        form = self._form(call.name, call.args, job, parts)
        if form is None:
            return
        if sum(map(len, self._known.values())) >= _IN_ALL:
            self._known = {}
        others = [one for one in self._known.get(len(message), ()) if one.pattern.parts_of(message) is None]
        self._known[len(message)] = [_Known(call.name, pattern, form, varying[1]), *others[: _OF_A_SIZE - 1]]


class CachedCall:
    """A call that is alike, with its first job: used as `Begun` is."""

    __slots__ = ("_arrived", "_call", "_job", "_known", "_message", "_number", "_whole", "parts", "size")

    def __init__(self, whole: SlowPath, known: _Known, message: bytes, arrived: float, number: bytes, job: Any) -> None:
        self._whole = whole
        self._known = known
        self._message = message
        self._arrived = arrived
        self._number = number
        self._job = job
        #: The same call, the whole way, where that was needed after all.
        self._call: PendingCall | None = None
        #: The encoded answer in segments, once there is one, and its bytes.
        self.parts: list[bytes] = []
        self.size = 0

    def step(self, result: Any) -> Any:
        """Takes the call to its run, or to its answer; see `Begun.step`."""
        if result is None:
            return self._job
        if self._call is not None or isinstance(result, BaseException):
            return self._step_whole(result)
        known, job = self._known, self._job
        form = known.form
        outline = form.outline(job, result)
        pattern = known.answers.get(outline)
        if pattern is not None:
            form.count(job, result)
            answer = pattern.made([self._number, *form.parts(job, result)])
            self.parts = [answer]
            self.size = len(answer)
            return None
        try:
            struct = form.result(job, result)
        except Exception as error:
            return self._step_whole(error)
        form.count(job, result)
        whole = self._whole
        self.parts = whole.write_result(known.name, int.from_bytes(self._number, "big", signed=True), struct)
        self.size = whole.size
        if outline is not None and self.size <= MOST_BYTES:
            self._learn(outline, [self._number, *form.parts(job, result)])
        return None

    def _step_whole(self, result: Any) -> Any:
        """The call as if it were the first of its kind; its errors are told in one place."""
        call, job = self._call, self._job
        if call is None:
            begun = self._whole.begin_whole(self._message, self._arrived)
            if isinstance(begun, list):
                self.parts, self.size = begun, self._whole.size
                return None
            self._call = call = begun
            job = call.step(None)
        if job is not None:  # else it is late by now
            job = call.step(result)
        self.parts, self.size = call.parts, call.size
        return job

    def _learn(self, outline: Any, parts: Sequence[bytes]) -> None:
        message = b"".join(self.parts)
        found = template_of(message, self._known.reply)
        if found is None:
            return
        pattern, places = found
        answers = self._known.answers
        if len(places) == len(parts) - 1 and pattern.made(parts) == message and len(answers) < _ANSWERS:
            answers[outline] = pattern
