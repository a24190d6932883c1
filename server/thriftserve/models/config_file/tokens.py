"""Protobuf's text format, cut into words and signs that know where they stand.

    "name: 'a' # …"  --tokens-->  NAME name @1:1, SIGN : @1:5, TEXT b"a" @1:7, END

Strings come out as bytes, escapes undone; numbers as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from thriftserve.models.config_file.tree import Place, SyntaxFault

NAME, NUMBER, TEXT, SIGN, END = "name", "number", "text", "sign", "end"

_TOKEN = re.compile(
    r"""
    (?P<space>(?:[ \t\r\n\f\v]+|\#[^\n]*)+)
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<number>0[xX][0-9a-fA-F]+ | (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)
    | (?P<text>"(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
    | (?P<sign>[{}<>\[\]:,;\-./])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(
    rb"""\\(?: (?P<plain>[abfnrtv\\'"?]) | (?P<octal>[0-7]{1,3}) | [xX](?P<hex>[0-9a-fA-F]{1,2})
         | u(?P<short>[0-9a-fA-F]{4}) | U(?P<long>[0-9a-fA-F]{8}) | (?P<bad>.) )""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number, string or sign; `text` is what was written, without quotes and escapes where it is a string."""

    kind: str
    text: str
    at: int
    content: bytes = b""


class Source:
    """A text and where its lines begin: turns an offset into line and column when somebody asks."""

    def __init__(self, text: str) -> None:
        # A byte order mark is what some editors put before everything else.
        self.text = text.removeprefix("\ufeff")

    def place(self, offset: int) -> Place:
        """Line and column of a character, both from 1."""
        before = self.text.rfind("\n", 0, offset)
        return Place(self.text.count("\n", 0, offset) + 1, offset - before)

    def tokens(self) -> Iterator[Token]:
        """Every token, then END.

        Raises:
            SyntaxFault: something is no token; it says where.
        """
        at = 0
        while at < len(self.text):
            found = _TOKEN.match(self.text, at)
            if found is None:
                raise self._no_token(at)
            kind, written = str(found.lastgroup), found.group()
            if kind == TEXT:
                yield Token(TEXT, written, at, self._unescaped(written, at))
            elif kind != "space":
                yield Token(kind, written, at)
            if kind == NUMBER and re.match(r"[A-Za-z0-9_]", self.text[found.end() : found.end() + 1]):
                raise SyntaxFault(self.place(at), f"{written!r} runs into what follows: put a space between them")
            at = found.end()
        yield Token(END, "the end of the file", len(self.text))

    def _no_token(self, at: int) -> SyntaxFault:
        sign = self.text[at]
        if sign in "\"'":
            return SyntaxFault(self.place(at), f"a string that begins with {sign} does not end on its line: close it")
        return SyntaxFault(self.place(at), f"{sign!r} has no meaning here: remove it, or put a string in quotes")

    def _unescaped(self, written: str, at: int) -> bytes:
        def undone(found: re.Match[bytes]) -> bytes:
            kind, value = str(found.lastgroup), found[str(found.lastgroup)]
            if kind == "plain":
                return bytes([_PLAIN[value[0]]])
            if kind == "octal":
                return bytes([int(value, 8) & 0xFF])
            if kind == "hex":
                return bytes([int(value, 16)])
            if kind == "bad" or int(value, 16) > 0x10FFFF or 0xD800 <= int(value, 16) <= 0xDFFF:
                bad = found.group().decode(errors="replace")
                raise SyntaxFault(self.place(at), f"the string holds {bad!r}, which is no escape: write \\\\ for \\")
            return chr(int(value, 16)).encode()

        plain = written[1:-1].encode("utf-8", "surrogatepass")
        return _ESCAPE.sub(undone, plain) if b"\\" in plain else plain
