"""Names and tables that are imported on first use, so that a package costs what is asked of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["lazy_names"]


def lazy_names(
    package: str, places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and the `__dir__` of the module `package`.

    `places` gives each name the module it stands in, as "module" or "module:attribute" where it
    has another name there. The first function raises AttributeError for every other name.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        found = import_module(module)
        return found if attribute == "*" else getattr(found, attribute or name)

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return find, listed
