"""The two forms of the configuration file, read into tables that know the position of each key.

    models.config  --parse_text-->  ModelServerConfig  --.
    models.toml    --parse_toml-->  TOML's own tables  ----->  ConfigTables: {"name": "digits", …} a model

protobuf parses the text form. It gets one token a line, so the line of its error is the number of the token at fault;
what people write and protobuf refuses is changed on the way. TOML has the keys and types of the same messages, and
tomlkit finds the position of a key only if there is something to say about it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from google.protobuf import text_format, wrappers_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from thriftserve.repository.settings_table import is_integer, is_number
from thriftserve_proto.model_server_config_pb2 import Image, ModelConfig, ModelServerConfig

#: Names of the list of models: in the text form, and of its tables in TOML.
LIST, MODEL = "model_config_list", "model"
_IGNORED, _LABELS = "logging_config", "version_labels"
_UNSUPPORTED = "custom_model_config"
_OPENING, _CLOSING = ("{", "<", "["), ("}", ">", "]")
_IDENTIFIER = re.compile(r"[A-Za-z_]")
_OCTAL = re.compile(r"-?0[0-9]+")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = "abfnrtv\\'\"?01234567xXuU"
#: No TOML file has it.
_MARK = "\0"
_TOML_POSITION = re.compile(r"at line (\d+), column (\d+)")
#: Lowest and highest number of a whole number's type.
_RANGES = {
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
}

#: How a value is reached: the model's number, then keys, and a number for each of several blocks.
KeyPath = tuple[str | int, ...]


#: The fields of BatchingParameters: only names and types count in the text form.
_BATCHING_FIELDS = (
    ("max_batch_size", "Int64Value"),
    ("batch_timeout_micros", "Int64Value"),
    ("max_enqueued_batches", "Int64Value"),
    ("num_batch_threads", "Int64Value"),
    ("thread_pool_name", "StringValue"),
    ("allowed_batch_sizes", "int64"),
    ("pad_variable_length_inputs", "bool"),
    ("enable_large_batch_splitting", "BoolValue"),
    ("max_execution_batch_size", "Int64Value"),
    ("mixed_priority_batching_policy", "StringValue"),
)


_SCALARS = {
    "int64": (FieldDescriptor.TYPE_INT64, FieldDescriptor.LABEL_REPEATED),
    "bool": (FieldDescriptor.TYPE_BOOL, FieldDescriptor.LABEL_OPTIONAL),
}


class Position(NamedTuple):
    """Line and column, both from 1; line 0: unknown."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}" if self.line else ""


class ConfigFault(ValueError):
    """The file is not of its form, or has a key, or a type of value, that it can't have."""

    def __init__(self, position: Position, message: str) -> None:
        super().__init__(message)
        self.position = position
        self.message = message


@dataclass(frozen=True)
class ConfigTables:
    """The content of a configuration file. Every value has the type that idl/ gives it."""

    #: One for each model. A block is a dict; a key that may be there several times has a list.
    models: list[dict[str, Any]]
    #: Returns the position of a key, or of the innermost block around it.
    find: Callable[[KeyPath], Position]
    #: Where blocks begin that have no effect here.
    ignored: list[Position]


# The text form.


def parse_text(text: str) -> ConfigTables:
    """Read the text form of ModelServerConfig.

    Raises:
        ConfigFault: It is not of that form; the fault has the position and the remedy.
    """
    tokens = _TextTokens(text)
    message = ModelServerConfig()
    try:
        text_format.Parse("\n".join(place.text for place in tokens.places), message)
    except text_format.ParseError as error:
        raise tokens.explain(error) from None
    if not message.HasField(LIST):
        raise ConfigFault(Position(1, 1), f"there is no {LIST}: write {LIST} {{ config {{ name: … base_path: … }} }}")
    return ConfigTables(_to_table(message.model_config_list).get("config", []), tokens.find, tokens.ignored)


def parse_batching_parameters(text: str) -> dict[str, Any]:
    """Read the text form of TensorFlow Serving's BatchingParameters; return the values that it sets.

    Raises:
        ConfigFault: It is not of that form.
    """
    message = _batching_parameters()()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        position = Position(error.GetLine() or 0, error.GetColumn() or 0)
        raise ConfigFault(position, f"{error}: write max_batch_size {{ value: 32 }}") from None
    return {
        known.name: value.value if isinstance(value, Message) else _to_value(value)
        for known, value in message.ListFields()
    }


@cache
def _batching_parameters() -> type[Message]:
    """Return the message, by the names, numbers and types of session_bundle_config.proto."""
    file = FileDescriptorProto(name="thriftserve/batching_parameters.proto", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    fields = file.message_type.add(name="BatchingParameters").field
    for number, (name, kind) in enumerate(_BATCHING_FIELDS, 1):
        field_of = fields.add(name=name, number=number, label=FieldDescriptor.LABEL_OPTIONAL)
        if kind in _SCALARS:
            field_of.type, field_of.label = _SCALARS[kind]
        else:
            field_of.type, field_of.type_name = FieldDescriptor.TYPE_MESSAGE, f".google.protobuf.{kind}"
    pool = DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    descriptor = pool.AddSerializedFile(file.SerializeToString()).message_types_by_name["BatchingParameters"]
    message: type[Message] = GetMessageClass(descriptor)
    return message


def _to_table(message: Message) -> dict[str, Any]:
    return {known.name: _to_value(value) for known, value in message.ListFields()}


def _to_value(value: Any) -> Any:
    if isinstance(value, Message):
        return _to_table(value)
    return [_to_value(each) for each in value] if isinstance(value, MutableSequence) else value


class _Token(NamedTuple):
    text: str
    position: Position


_BEGIN = _Token("", Position(1, 1))


def _tokenize(text: str) -> Iterator[_Token]:
    # A byte order mark is what some editors put before everything else.
    tokenizer = text_format.Tokenizer(text.removeprefix("\ufeff").split("\n"))
    while not tokenizer.AtEnd():
        here = tokenizer.ParseError("")
        yield _Token(tokenizer.token, Position(here.GetLine(), here.GetColumn()))
        tokenizer.NextToken()


@dataclass
class _OpenMessage:
    """A block that is open: its path, a message of its type, and the key that is being read."""

    path: KeyPath
    #: None: protobuf will refuse the block's name.
    message: Message | None
    opened: _Token
    key: _Token = _BEGIN
    in_list: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def known(self) -> Any:
        """Return the descriptor of the key, or None if its message has no such key."""
        return None if self.message is None else self.message.DESCRIPTOR.fields_by_name.get(self.key.text)


class _Place(NamedTuple):
    """A token that protobuf gets, and what it belongs to."""

    text: str
    position: Position
    block: _OpenMessage
    key: _Token
    known: Any


class _TextTokens:
    """The tokens of a text: what protobuf gets of them, and which key each belongs to."""

    def __init__(self, text: str) -> None:
        self._blocks = [_OpenMessage((), ModelServerConfig(), _BEGIN)]
        self._positions: dict[KeyPath, Position] = {}
        self._skipped = 0
        self.places: list[_Place] = []
        self.ignored: list[Position] = []
        tokens = list(_tokenize(text))
        for number, token in enumerate(tokens):
            self._add(token, tokens[number + 1].text if number + 1 < len(tokens) else "")

    def find(self, path: KeyPath) -> Position:
        """Return the position of a model's key, or of the innermost block around it."""
        inner: KeyPath = (LIST, "config", *path)
        while inner and inner not in self._positions:
            inner = inner[:-1]
        return self._positions.get(inner, Position(1, 1))

    def _add(self, token: _Token, after: str) -> None:
        """Add a token; `after` is the text of the next one."""
        text, block = token.text, self._blocks[-1]
        before = self.places[-1].text if self.places else ""
        if self._skipped:  # inside a block that has no effect
            self._skipped += (text in _OPENING) - (text in _CLOSING)
            if self._skipped:
                return
        if text in (",", ";") and (before in ("", "{", "<", ",", ";") or after == "]"):
            return  # nothing to separate
        if text in ("{", "<"):
            self._open(block, token)
        elif text in ("}", ">"):
            del self._blocks[max(1, len(self._blocks) - 1) :]
        elif text in ("[", "]"):
            block.in_list = text == "["
            if block.in_list and before != ":":  # protobuf asks for one before a list of values
                self.places.append(_Place(":", token.position, block, block.key, block.known()))
        elif block.in_list or before == ":" or not _IDENTIFIER.match(text):
            text = _check_value(token, block)
        else:
            self._begin_key(block, token)
        self.places.append(_Place(text, token.position, block, block.key, block.known()))

    def _begin_key(self, block: _OpenMessage, token: _Token) -> None:
        block.key = token
        self._positions.setdefault((*block.path, token.text), token.position)
        if token.text == _UNSUPPORTED:
            raise ConfigFault(
                token.position, f"{_UNSUPPORTED} is not supported: list the models in {LIST} {{ config {{ … }} }}"
            )
        if token.text == _IGNORED:
            self.ignored.append(token.position)

    def _open(self, block: _OpenMessage, token: _Token) -> None:
        path: KeyPath = (*block.path, block.key.text)
        known = block.known()
        child: Message | None = None
        if known is not None and known.message_type is not None:
            child = GetMessageClass(known.message_type)()
            if isinstance(getattr(block.message, known.name), MutableSequence):
                number = block.counts.get(known.name, 0)
                block.counts[known.name] = number + 1
                path = (*path, number)
        self._positions.setdefault(path, token.position if block.in_list else block.key.position)
        self._blocks.append(_OpenMessage(path, child, token))
        self._skipped = int(block.key.text == _IGNORED)

    def explain(self, error: text_format.ParseError) -> ConfigFault:
        """Return protobuf's error as one that says where in the file, and what to write instead."""
        place = self.places[min(error.GetLine() or 1, len(self.places)) - 1]
        text, key, at, inside = place.text, place.key.text, place.key.position, place.block.path
        if len(self._blocks) > 1 and place is self.places[-1]:
            opened = self._blocks[-1].opened
            why = f"the file ends inside a block: close the {opened.text!r} of line {opened.position.line}"
            return ConfigFault(place.position, why)
        reason = str(error).partition(" : ")[2].removeprefix(f"'{text}': ").rstrip(".")
        if "has no field named" in reason and place.block.message is not None:
            return ConfigFault(place.position, _unknown_key(key, place.block.message, inside))
        if "is specified along with" in reason:
            second, first = re.findall(r'[Ff]ield "(\w+)"', reason)
            return ConfigFault(at, f"{inside[-1]} has {first} and {second}: give one of them, once")
        if "should not have multiple" in reason or (text == "[" and place.known is not None):
            return ConfigFault(at, _one_value(key))
        if text in ("{", "<") and reason == 'Expected ":"':
            return ConfigFault(at, f"{key} is a block: a value is expected: {key}: …")
        if "identifier" in reason:
            return ConfigFault(place.position, f"found {text!r}, expected a key")
        if place.known is None or text in _CLOSING or reason in ('Expected ":"', 'Expected ","'):
            expected = reason.removeprefix("Expected ") if '"' in reason else f"a value of {key!r}"
            return ConfigFault(place.position, f"found {text!r}, expected {expected}")
        return ConfigFault(at, _wrong_type(key, text, place.known))


def _check_value(token: _Token, block: _OpenMessage) -> str:
    """Return a value as protobuf is to get it; a sign passes as it is.

    Raises:
        ConfigFault: protobuf would take it for something that people seldom mean.
    """
    text = token.text
    if text[0] in "\"'":
        if len(text) < 2 or text[-1] != text[0]:
            why = f"a string that begins with {text[0]} does not end on its line: close it"
            raise ConfigFault(token.position, why)
        for escape in _ESCAPE.finditer(text):
            if escape[1] not in _ESCAPES:
                why = f"the string holds {escape[0]!r}, which is no escape: write \\\\ for \\"
                raise ConfigFault(token.position, why)
    elif _OCTAL.fullmatch(text):
        raise ConfigFault(token.position, f"{text} begins with 0, which means octal here: write {int(text)}")
    elif isinstance(block.message, Image) and _IDENTIFIER.match(text) and _is_string(block.known()):
        return f'"{text}"'  # fit: crop
    return text


def _is_string(known: Any) -> bool:
    return known is not None and known.cpp_type == FieldDescriptor.CPPTYPE_STRING


# TOML.


def parse_toml(text: str) -> ConfigTables:
    """Read the TOML form: one table [[model]] for each model, with the keys of the text form.

    Raises:
        ConfigFault: It is not TOML, or has other tables, keys or types; the fault has the position and the remedy.
    """
    text = text.removeprefix("\ufeff")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _TOML_POSITION.search(str(error))
        position = Position(int(at[1]), int(at[2])) if at else Position(0, 0)
        raise ConfigFault(position, f"not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigFault(Position(0, 0), "tables or lists are nested too deep: flatten the file") from None
    for key in document:
        if key != MODEL:
            why = f"unknown key {key!r}: write one [[{MODEL}]] table for each model"
            raise ConfigFault(_find_toml(text, (key,)), why)
    tables = document.get(MODEL, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        why = f"{MODEL} is no list of tables: write [[{MODEL}]] above each model"
        raise ConfigFault(_find_toml(text, (MODEL,)), why)

    def find(path: KeyPath) -> Position:
        return _find_toml(text, (MODEL, *path))

    ignored = [find((number, _IGNORED)) for number, table in enumerate(tables) if table.pop(_IGNORED, None) is not None]
    models = [_checked_table(table, ModelConfig(), (number,), find) for number, table in enumerate(tables)]
    return ConfigTables(models, find, ignored)


def _checked_table(
    table: Mapping[str, Any], message: Message, path: KeyPath, find: Callable[[KeyPath], Position]
) -> dict[str, Any]:
    """Return a table with the types of a message: enums by number, several values as a list."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        here = (*path, key)
        known = message.DESCRIPTOR.fields_by_name.get(key)
        if known is None:
            raise ConfigFault(find(here), _unknown_key(key, message, path))
        example = getattr(message, key)
        if key == _LABELS and isinstance(value, dict):
            value = [{"key": label, "value": version} for label, version in value.items()]
        if isinstance(example, MutableSequence):
            items = value if isinstance(value, list) else [value]
            values[key] = [_checked_value(item, known, (*here, number), find) for number, item in enumerate(items)]
        elif isinstance(value, list):
            raise ConfigFault(find(here), _one_value(key))
        else:
            values[key] = _checked_value(value, known, here, find)
    return values


def _checked_value(value: Any, known: Any, path: KeyPath, find: Callable[[KeyPath], Position]) -> Any:
    if known.message_type is not None and isinstance(value, dict):
        return _checked_table(value, GetMessageClass(known.message_type)(), path, find)
    if known.enum_type is not None and value in known.enum_type.values_by_name:
        return known.enum_type.values_by_name[value].number
    if not _fits(value, known):
        raise ConfigFault(find(path), _wrong_type(known.name, repr(value), known))
    return value


def _fits(value: Any, known: Any) -> bool:
    kind = known.cpp_type
    if kind in _RANGES:
        return is_integer(value, *_RANGES[kind])
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return is_number(value)
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return value in known.enum_type.values_by_number
    return isinstance(value, bool if kind == FieldDescriptor.CPPTYPE_BOOL else str) and known.message_type is None


def _find_toml(text: str, path: KeyPath) -> Position:
    """Return the position of a key, or of the innermost table around it that can be found.

    A mark is put before it, and looked for in the text that tomlkit writes again.
    """
    import tomlkit  # here: only a message needs it
    from tomlkit.exceptions import TOMLKitError
    from tomlkit.items import AoT, Table

    try:
        document = tomlkit.parse(text)
    except TOMLKitError:
        return Position(0, 0)
    item: Any = None
    for part in path:
        inner = _inner(document if item is None else item, part)
        if inner is None:
            break
        item = inner
    while item is not None:
        item.trivia.indent += _MARK
        # A table without a line of its own begins with its first key.
        item = _inner(item, 0) if isinstance(item, AoT | Table) and len(item) else None
    before, mark, _ = document.as_string().partition(_MARK)
    return Position(before.count("\n") + 1, len(before) - before.rfind("\n")) if mark else Position(0, 0)


def _inner(item: Any, part: str | int) -> Any:
    """Return the value of a key, of the key of that number, or the table of that number; None if it can't be found."""
    from tomlkit.container import Container
    from tomlkit.items import AbstractTable, AoT, Item

    if isinstance(item, AoT):
        return item[int(part)]
    container = item.value if isinstance(item, AbstractTable) else item
    if not isinstance(container, Container):
        return None
    key = list(container)[part] if isinstance(part, int) else part
    value = container.item(key) if key in container else None
    return value if isinstance(value, Item) else None


# What is said of mistakes, in both forms.


def _unknown_key(key: str, message: Message, path: KeyPath) -> str:
    names = [known.name for known in message.DESCRIPTOR.fields]
    near = difflib.get_close_matches(key, names, 1, 0.6)
    if near:
        remedy = f"did you mean {near[0]!r}?"
    else:
        remedy = f"use one of {', '.join(names)}" if names else "it has no keys, remove it"
    inside = "a model's block" if isinstance(message, ModelConfig) else path[-1] if path else "the file"
    return f"unknown key {key!r} in {inside}: {remedy}"


def _one_value(key: str) -> str:
    return f"{key} takes one value: give it once, and no list"


def _wrong_type(key: str, value: str, known: Any) -> str:
    """Return what to say of a value, as written, that is not of its key's type."""
    kind = known.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        expected = f"a block is expected: {key} {{ … }}"
    elif kind == FieldDescriptor.CPPTYPE_STRING:
        expected = "a string is expected, in quotes"
    elif kind == FieldDescriptor.CPPTYPE_BOOL:
        expected = "true or false is expected"
    elif kind == FieldDescriptor.CPPTYPE_UINT32:
        expected = "a whole number from 0 to 4294967295 is expected"
    elif kind == FieldDescriptor.CPPTYPE_INT64:
        expected = "a whole number of at most 64 bits is expected"
    elif kind == FieldDescriptor.CPPTYPE_ENUM:
        expected = f"one of {', '.join(known.enum_type.values_by_name)} is expected"
    else:
        expected = "a number is expected"
    return f"{key} = {value}: {expected}"
