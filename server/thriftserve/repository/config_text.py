"""Protobuf's text format, read without knowing what it is about.

    "config { name: 'a' versions: [1, 2] }"  --parse-->  Block(config: Block(name 'a', versions 1, versions 2))

As the format's specification has it: `:` before a brace may be left out, `<…>` are braces too, fields may be
followed by a comma or semicolon, adjacent strings are one, `[type.url/name]` is a field's name. One more than it
allows: a comma or semicolon may also stand where there is nothing to part, as people write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Protobuf's text format, cut into words and signs that know where they stand.

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
class ConfigToken:
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

    def place(self, offset: int) -> SourcePosition:
        """Line and column of a character, both from 1."""
        before = self.text.rfind("\n", 0, offset)
        return SourcePosition(self.text.count("\n", 0, offset) + 1, offset - before)

    def tokens(self) -> Iterator[ConfigToken]:
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
                yield ConfigToken(TEXT, written, at, self._unescaped(written, at))
            elif kind != "space":
                yield ConfigToken(kind, written, at)
            if kind == NUMBER and re.match(r"[A-Za-z0-9_]", self.text[found.end() : found.end() + 1]):
                raise SyntaxFault(self.place(at), f"{written!r} runs into what follows: put a space between them")
            at = found.end()
        yield ConfigToken(END, "the end of the file", len(self.text))

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


# What a configuration file says, before anyone asks what it means.


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Line and column, both from 1; column 0: only the line is known; line 0: not even that."""

    line: int
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return ""
        return f"{self.line}:{self.column}" if self.column else str(self.line)


class SyntaxFault(ValueError):
    """The text is not of its format; `where` says at what place."""

    def __init__(self, where: SourcePosition, message: str) -> None:
        super().__init__(message)
        self.where = where
        self.message = message


class Word(str):
    """A bare word of the text format: a name of an enum, true or false."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Field:
    """A name and one value: a Block, str (bytes that are no UTF-8 stay bytes), Word, int, float or bool."""

    name: str
    value: object
    at: SourcePosition
    #: Whether it was one of a list's.
    listed: bool = False


@dataclass(frozen=True, slots=True)
class ConfigBlock:
    """Fields between braces, or a TOML table."""

    fields: tuple[Field, ...]
    at: SourcePosition

    def named(self, name: str) -> Iterator[Field]:
        """Every field of that name, in the order they are written."""
        return (one for one in self.fields if one.name == name)

    def blocks(self, name: str) -> Iterator[ConfigBlock]:
        """The value of every field of that name that is a block."""
        return (one.value for one in self.named(name) if isinstance(one.value, ConfigBlock))


#: Deeper files are nothing that people write, and would exhaust Python's stack.
MOST_DEPTH = 100
_CLOSING = {"{": "}", "<": ">"}


def parse(text: str) -> ConfigBlock:
    """The fields of a text.

    Raises:
        SyntaxFault: it is not of the format; says where and what was expected.
    """
    return _Parser(Source(text)).whole()


class _Parser:
    """Reads one token ahead."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokens = source.tokens()
        self._next = next(self._tokens)
        self._depth = 0

    def whole(self) -> ConfigBlock:
        """The file: fields up to its end."""
        made = self._fields(END, self._place(self._next))
        if self._next.kind != END:
            raise self._unexpected("the name of a field")
        return made

    def _fields(self, closing: str, at: SourcePosition) -> ConfigBlock:
        fields: list[Field] = []
        while self._next.kind in (NAME, SIGN) and self._next.text != closing:
            if self._next.text in (",", ";"):
                self._take()
                continue
            if self._next.kind == SIGN and self._next.text != "[":
                break
            self._field(fields)
        return ConfigBlock(tuple(fields), at)

    def _field(self, fields: list[Field]) -> None:
        at = self._place(self._next)
        name = self._bracketed_name() if self._is("[") else self._take().text
        colon = self._is(":")
        if colon:
            self._take()
        if self._is("["):
            self._list(name, fields)
        elif self._is("{") or self._is("<"):
            fields.append(Field(name, self._block(), at))
        elif colon:
            fields.append(Field(name, self._scalar(), at))
        else:
            raise self._unexpected(f"':' or '{{' after {name!r}")

    def _bracketed_name(self) -> str:
        """An extension's name or an Any's type: `[a.b/c.d]`."""
        self._take()
        parts = []
        while self._next.kind in (NAME, NUMBER) or self._next.text in (".", "/", "-"):
            parts.append(self._take().text)
        self._expect("]")
        return f"[{''.join(parts)}]"

    def _list(self, name: str, fields: list[Field]) -> None:
        begun = self._take()
        while not self._is("]"):
            at = self._place(self._next)
            value = self._block() if self._is("{") or self._is("<") else self._scalar()
            fields.append(Field(name, value, at, listed=True))
            if self._is(","):
                self._take()
            elif not self._is("]"):
                raise self._unclosed(begun, "',' or ']'")
        self._take()

    def _block(self) -> ConfigBlock:
        begun = self._take()
        closing = _CLOSING[begun.text]
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise SyntaxFault(self._place(begun), f"blocks lie more than {MOST_DEPTH} deep: flatten the file")
        made = self._fields(closing, self._place(begun))
        if not self._is(closing):
            raise self._unclosed(begun, f"a field or {closing!r}")
        self._take()
        self._depth -= 1
        return made

    def _scalar(self) -> object:
        if self._next.kind == TEXT:
            return self._string()
        negative = self._is("-")
        if negative:
            self._take()
        if self._next.kind == NUMBER:
            return self._number(negative)
        if self._next.kind == NAME:
            word = self._take().text
            if word.lower() in ("inf", "infinity", "nan"):
                return float(f"-{word}" if negative else word)
            if not negative:
                return Word(word)
        raise self._unexpected("a value: a string in quotes, a number, true or false")

    def _string(self) -> str | bytes:
        content = self._take().content
        while self._next.kind == TEXT:
            content += self._take().content
        try:
            return content.decode()
        except UnicodeDecodeError:
            return content

    def _number(self, negative: bool) -> int | float:
        token = self._take()
        written, sign = token.text.lower(), -1 if negative else 1
        if written.startswith("0x"):
            return sign * int(written, 16)
        if not written.isdigit():
            return sign * float(written.removesuffix("f"))
        if len(written) > 1 and written[0] == "0":
            # Protobuf reads it as octal; whoever writes 007 or 00123 seldom means that.
            meant = written.lstrip("0") or "0"
            raise SyntaxFault(self._place(token), f"{written} begins with 0, which means octal here: write {meant}")
        if len(written) > 40:
            raise SyntaxFault(self._place(token), f"a number of {len(written)} digits: none is that large")
        return sign * int(written)

    def _is(self, sign: str) -> bool:
        return self._next.kind == SIGN and self._next.text == sign

    def _take(self) -> ConfigToken:
        taken = self._next
        if taken.kind != END:
            self._next = next(self._tokens)
        return taken

    def _expect(self, sign: str) -> None:
        if not self._is(sign):
            raise self._unexpected(repr(sign))
        self._take()

    def _place(self, token: ConfigToken) -> SourcePosition:
        return self._source.place(token.at)

    def _unexpected(self, expected: str) -> SyntaxFault:
        found = self._next.text if self._next.kind == END else repr(self._next.text)
        return SyntaxFault(self._place(self._next), f"found {found}, expected {expected}")

    def _unclosed(self, begun: ConfigToken, expected: str) -> SyntaxFault:
        fault = self._unexpected(expected)
        return SyntaxFault(
            fault.where, f"{fault.message}: close the {begun.text!r} of line {self._place(begun).line} first"
        )
