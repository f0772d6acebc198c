"""Names and tables that are imported on first use, so that a package costs what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LazyTable", "lazy_names"]

Value = TypeVar("Value")


class LazyTable(Mapping[str, Value]):
    """A table of objects whose names are known at once and whose modules load on first use.

    `places` gives each name the class whose instance it stands for, as "module:class".
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._made: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        if name not in self._made:
            module, _, kind = self._places[name].partition(":")
            self._made[name] = getattr(import_module(module), kind)()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


def lazy_names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of the module `package`.

    `places` gives each name the module it stands in, as "module" or "module:attribute" where it
    has another name there. The function raises AttributeError for every other name.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        found = import_module(module)
        return found if attribute == "*" else getattr(found, attribute or name)

    return find
