"""What `serve` is told."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from logitstore.errors import SettingError
from logitstore.options import option, options_of
from logitstore.store.options import MAX_MEMORY, STORE
from logitstore.viewing.options import PORT, TELL

__all__ = ["SERVE_OPTIONS", "TOKEN_VARIABLE", "ServeOptions", "chosen_token"]

TOKEN_VARIABLE = "LOGITSTORE_TOKEN"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what a header can carry
_LEAST_TOKEN = 8


def _refuse_token(token: str) -> None:
    """Raise SettingError for what no header can carry, or what is guessed."""
    if not _TOKEN.fullmatch(token) or len(token) < _LEAST_TOKEN:
        raise SettingError(
            f"this can be no token, by --token or {TOKEN_VARIABLE}",
            allowed=f"{_LEAST_TOKEN} or more letters, digits and signs of ._~+/=-",
            remedy="Make one by `openssl rand -hex 32`",
        )


def chosen_token(given: str | None) -> str | None:
    """The token that was given, else that of the environment; None where there is none.

    given: the option.

    Raises SettingError for one in the environment that can be none.
    """
    token = given or os.environ.get(TOKEN_VARIABLE) or None
    if token is not None:
        _refuse_token(token)
    return token


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What is served, and to whom."""

    where: Any = option(
        like=STORE,
        spelled="stores",
        help="What is served: a folder or a URI with stores below it, or one store.",
    )
    host: str = option(
        "127.0.0.1",
        help="The address that is listened to: 127.0.0.1 is this machine alone, 0.0.0.0 is "
        "every network that it is part of.",
    )
    port: int = option(8420, like=PORT)
    token: str | None = option(
        None,
        refuse=_refuse_token,
        help="The token without which nothing is given to anybody.",
        unset=f"that of the environment variable {TOKEN_VARIABLE}, else none is needed",
    )
    max_memory: Any = option(like=MAX_MEMORY)
    tell: object = option(like=TELL)


SERVE_OPTIONS = options_of(ServeOptions)
