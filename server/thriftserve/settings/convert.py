"""What a source says, as the value of a setting.

::

    text of a flag or variable | value of a TOML file  -->  int, float, bool, str or tuple of them
"""

from __future__ import annotations

from typing import Any

from thriftserve.settings.field import EXPECTED, Setting

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def from_text(setting: Setting, text: str) -> Any:
    """The value that a text stands for; a repeated setting's items stand between commas.

    Raises:
        ValueError: says what is expected.
    """
    if setting.info.repeated:
        return tuple(item_from_text(setting, item.strip()) for item in text.split(",") if item.strip())
    return item_from_text(setting, text)


def item_from_text(setting: Setting, text: str) -> Any:
    """The value, of one item where the setting is repeated, that a text stands for.

    Raises:
        ValueError: says what is expected.
    """
    if setting.kind is bool:
        return _boolean(text)
    try:
        return setting.kind(text)
    except ValueError:
        raise ValueError(EXPECTED[setting.kind]) from None


def _boolean(text: str) -> bool:
    word = text.lower()
    if word not in _TRUE + _FALSE:
        raise ValueError(EXPECTED[bool])
    return word in _TRUE


def from_toml(setting: Setting, raw: Any) -> Any:
    """The value that a TOML value stands for.

    Raises:
        ValueError: says what is expected.
    """
    if setting.info.repeated:
        if not isinstance(raw, list) or any(type(item) is not setting.kind for item in raw):
            raise ValueError('must be a list of text: ["…", "…"]')
        return tuple(raw)
    if setting.kind is float and type(raw) is int:
        return float(raw)
    if type(raw) is not setting.kind:
        raise ValueError(EXPECTED[setting.kind])
    return raw
