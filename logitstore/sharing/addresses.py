"""Names of repositories on the Hub: `hf://datasets/ORG/NAME[@REVISION]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from logitstore.errors import SettingError

__all__ = ["HubAddress"]

_SCHEME = "hf://"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_ADDRESS = re.compile(rf"hf://datasets/({_NAME}/{_NAME})(?:@([A-Za-z0-9._/-]+))?/?")
_MOST_CHARACTERS = 96  # of a name on the Hub


@dataclass(frozen=True, kw_only=True, slots=True)
class HubAddress:
    """A repository of data on the Hub, and a branch, tag or commit of it."""

    repository: str  # "org/name"
    revision: str | None

    @staticmethod
    def of(where: object) -> HubAddress | None:
        """The address that `where` is; None for what is none. Raises SettingError for a bad one.

        where: anything.
        """
        if not isinstance(where, str) or not where.lower().startswith(_SCHEME):
            return None
        match = _ADDRESS.fullmatch(where)
        if match is None or ".." in where or len(match[1]) > _MOST_CHARACTERS:
            raise SettingError(
                "this is no repository of data on the Hub",
                found=where,
                allowed="hf://datasets/ORG/NAME, or hf://datasets/ORG/NAME@REVISION to pull",
            )
        return HubAddress(repository=match[1], revision=match[2])

    def uri(self, revision: str | None) -> str:
        """The address at a revision; None for none.

        revision: a branch, a tag or a commit.
        """
        behind = "" if revision is None else f"@{revision}"
        return f"{_SCHEME}datasets/{self.repository}{behind}"
