"""The secret that a caller of ModelControl has to know.

--control-token-file  --Token.read-->  Token: admits(what a call carries) -> yes | no
"""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from thriftserve.errors import ConfigError

log = logging.getLogger(__name__)

#: Shorter ones could be guessed.
LEAST_CHARACTERS = 16
_MOST_BYTES = 4096


class Token:
    """A token in a file, without the white space around it. A file that changes holds from the next call on.

    Args:
        path: of the file.

    Raises:
        ConfigError: it can't be read, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._value = _read(path)

    def admits(self, given: str | None) -> bool:
        """Whether a call that carries this may be answered; how long that takes tells nothing of the token."""
        try:
            self._value = _read(self._path)
        except ConfigError as error:  # being replaced, say: nobody is let in by that, and nobody locked out
            log.warning("%s; the token that was there before holds", error.message)
        return hmac.compare_digest((given or "").encode(errors="replace"), self._value)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            value = file.read(_MOST_BYTES + 1).strip()
    except OSError as error:
        raise ConfigError(f"control_token_file {str(path)!r} can't be read: {error.strerror}") from None
    if not LEAST_CHARACTERS <= len(value) <= _MOST_BYTES:
        raise ConfigError(
            f"control_token_file {str(path)!r} holds {len(value)} bytes: a token has "
            f"{LEAST_CHARACTERS} to {_MOST_BYTES}; `head -c 32 /dev/urandom | base64` makes a good one"
        )
    return value
