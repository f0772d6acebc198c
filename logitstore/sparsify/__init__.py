"""Dense distribution -> SparseTargets: the sparsifiers by name, and what imports store in place.

To add a sparsifier, write a module of this folder that declares it, and add it to `SPARSIFIERS`.
Declarations do not import torch; the code that draws is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.errors import CorruptionError, SettingError
from logitstore.sparsify.foreign import FOREIGN
from logitstore.sparsify.hidden import HIDDEN
from logitstore.sparsify.hybrid import HYBRID
from logitstore.sparsify.options import check_temperatures
from logitstore.sparsify.sample import SAMPLE
from logitstore.sparsify.topk import TOPK
from logitstore.sparsify.topp import TOPP
from logitstore.sparsify.unbiased import UNBIASED

if TYPE_CHECKING:
    from logitstore.format.spec import SparsifierSpec
    from logitstore.targets.sparsifier import Sparsifier

__all__ = ["DEFAULT_SPARSIFIER", "SPARSIFIERS", "sparsifier_of"]

SPARSIFIERS: dict[str, Sparsifier] = {
    one.name: one
    for one in (
        HYBRID,
        UNBIASED,
        SAMPLE,
        TOPK,
        TOPP,
        HIDDEN,
    )
}

# The smallest target with a head that trains students as well as the live teacher does, within the
# noise of six seeds (docs/decisions/006-default-sparsifier.md).
DEFAULT_SPARSIFIER = "hybrid"


def sparsifier_of(spec: SparsifierSpec, *, place: str = "store.json: sparsifier") -> Sparsifier:
    """The sparsifier that `spec` was made by, or what stands for it where a store was imported.

    Args:
        spec: The spec of a store.
        place: What an error names as the place.

    Raises CorruptionError for a name that this version does not know, and for options that the
    sparsifier of that name cannot have.
    """
    found = SPARSIFIERS.get(spec.name) or FOREIGN.get(spec.name)
    if found is None:
        raise CorruptionError(
            "the store was written with a sparsifier this version does not know",
            place=place,
            found=spec.name,
            allowed=", ".join((*SPARSIFIERS, *FOREIGN)),
            remedy="Install a newer version of logitstore",
        )
    found.check_spec(spec, place=place)
    try:
        check_temperatures(spec)
    except SettingError as error:
        raise CorruptionError(
            error.problem, place=place, found=error.found, allowed=error.allowed
        ) from error
    return found
