"""Functions made for one generated struct class, which look at every value in it without a call for each.

    class  --Walk.compile-->  source: for v2 in v1.inputs.values(): …  -->  function(struct)

What is looked at is the user's part: lines for a struct, lines for a `binary`. Every message is looked through
twice, so this is worth what it is: a tree of small functions did the same in three times the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thrift.Thrift import TType


class Walk:
    """How to look through structs.

    Args:
        at_struct: (class, variable) -> lines that look at a struct itself.
        at_binary: variable -> lines that look at a `binary`.
        again: what a struct inside one of its own class is given to: (class, value) -> True ends the walk.
        any_key: False: maps whose keys are no strings are left out.
        known: what the lines may use, by name.
    """

    def __init__(
        self,
        *,
        at_struct: Callable[[type, str], list[str]],
        at_binary: Callable[[str], list[str]],
        again: Callable[[type, Any], bool],
        any_key: bool,
        known: dict[str, Any],
    ) -> None:
        self._at_struct = at_struct
        self._at_binary = at_binary
        self._any_key = any_key
        self._again = again
        self._known = known

    def compile(self, cls: type) -> Callable[[Any], Any] | None:
        """The function for one class; None where there is nothing to look at.

        It returns what the lines return, False where they don't.
        """
        names = dict(self._known, again=self._again)
        body = self._struct(cls, "v0", [], names)
        if not body:
            return None
        source = "\n".join(["def walk(v0):", *_indented(body), "    return False"])
        exec(source, names)  # made of field names and of the lines above, never of what a peer sent
        found: Callable[[Any], Any] = names["walk"]
        return found

    def _struct(self, cls: type, variable: str, above: list[type], names: dict[str, Any]) -> list[str]:
        if cls in above:
            alias = f"c{len(names)}"
            names[alias] = cls
            return [f"if again({alias}, {variable}): return True"]
        lines = self._at_struct(cls, variable)
        for at, one in enumerate(getattr(cls, "thrift_spec", None) or ()):
            if one is None:
                continue
            inner = f"{variable}_{at}"
            body = self._value(one[1], one[3], inner, [*above, cls], names)
            if body:
                lines += [f"{inner} = {variable}.{one[2]}", f"if {inner} is not None:", *_indented(body)]
        return lines

    def _value(self, ttype: int, args: Any, variable: str, above: list[type], names: dict[str, Any]) -> list[str]:
        if ttype == TType.STRING:
            return self._at_binary(variable) if args == "BINARY" else []
        if ttype == TType.STRUCT:
            return self._struct(args[0], variable, above, names)
        if ttype in (TType.LIST, TType.SET):
            (kind, inside), values = args[:2], variable
        elif ttype == TType.MAP and (self._any_key or args[0] == TType.STRING):
            (kind, inside), values = args[2:4], f"{variable}.values()"
        else:
            return []
        body = self._value(kind, inside, f"{variable}i", above, names)
        return [f"for {variable}i in {values}:", *_indented(body)] if body else []


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
