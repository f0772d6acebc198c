"""Settings at which the tests run each sparsifier, so that whatever joins the table is tested."""

from itertools import product
from typing import Any

from logitstore.errors import SettingError
from logitstore.sparsify import SPARSIFIERS

__all__ = ["other_values", "settings", "small"]

_SMALL: dict[str, dict[str, Any]] = {
    "topk": {"k": 16},
    "topp": {"k": 200, "top_p": 0.7},
    "sample": {"draws": 20},
    "unbiased": {"k": 16},
    "hybrid": {"k": 6, "tail_draws": 10},
}
_SEVERAL: dict[str, tuple[dict[str, Any], ...]] = {
    "sample": ({"draws": 30},),
    "unbiased": ({"k": 8}, {"k": 16}),
    "hybrid": ({"k": 6, "tail_draws": 6},),
}


def small(name: str, *, vocab_size: int) -> dict[str, Any]:
    """Options for rows of few entries: those above, else the first compared, else the defaults."""
    sparsifier = SPARSIFIERS[name]
    first = next(iter(sparsifier.compared), {})
    return _fitted(name, _SMALL.get(name, _entries(name) | first), vocab_size=vocab_size)


def settings(name: str, *, vocab_size: int) -> list[dict[str, Any]]:
    """Options at which draws are compared with the dense distribution: few entries, and more."""
    if name in _SEVERAL:
        return [_fitted(name, one, vocab_size=vocab_size) for one in _SEVERAL[name]]
    tried = [_entries(name), *(_entries(name) | one for one in SPARSIFIERS[name].compared)]
    # Entries that no row can be short of, and so few that every row is.
    found = [
        _fitted(name, one, vocab_size=size) for one, size in product(tried, (8, vocab_size // 2))
    ]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def other_values(name: str, option: str) -> list[Any]:
    """Values that `option` of the sparsifier may have besides the one in `small`."""
    sparsifier = SPARSIFIERS[name]
    (declared,) = (one for one in sparsifier.options if one.name == option)
    used = small(name, vocab_size=1000).get(option, sparsifier.defaults[option])
    tried = [one[option] for one in sparsifier.compared if option in one]
    if declared.kind is int:
        tried += [used + 1, 2 * used, used // 2, used // 4]
    else:
        ends = [declared.least, declared.above, declared.most]
        tried += [used / 2, 2 * used, *((used + end) / 2 for end in ends if end is not None)]
    return [one for one in tried if one != used and _allowed(declared, one)]


def _allowed(option: Any, value: Any) -> bool:
    try:
        option.check(value)
    except SettingError:
        return False
    return True


def _entries(name: str) -> dict[str, Any]:
    """The defaults of the options that say what a row holds; tests set the others themselves."""
    defaults = SPARSIFIERS[name].defaults
    return {one: value for one, value in defaults.items() if one not in ("seed", "repeats")}


def _fitted(name: str, options: dict[str, Any], *, vocab_size: int) -> dict[str, Any]:
    """`options` with no more entries of a row than there are tokens."""
    room = SPARSIFIERS[name].room
    values = SPARSIFIERS[name].defaults | options
    total = sum(values[one] for one in room)
    if total <= vocab_size:
        return dict(options)
    return options | {one: max(1, values[one] * vocab_size // total) for one in room}
