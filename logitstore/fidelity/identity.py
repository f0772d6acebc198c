"""Whether a teacher is the one that a store was made with: by fingerprints, before it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore.corpus.tokenizer import (
    holds_tokenizer,
    load_tokenizer,
    tokenizer_fingerprint,
)
from logitstore.errors import TokenizerError
from logitstore.teacher.models import model_path
from logitstore.teacher.opening import is_name
from logitstore.teacher.transformers import TransformersTeacher, model_fingerprint
from logitstore.teacher.weights import weights_fingerprint

if TYPE_CHECKING:
    from logitstore.format.spec import StoreSpec
    from logitstore.teacher.base import Teacher

__all__ = ["is_stores_teacher", "refuse_other_tokenizer"]


def is_stores_teacher(teacher: Teacher, spec: StoreSpec) -> bool | None:
    """Whether the teacher is the one by whose fingerprint the store was made.

    teacher: opened.
    spec: of the store.

    A folder is known by its files and by the weights that they hold. A loaded model is known by its
    weights alone, so that of a store that was made from a folder it cannot be told: None. Nor of an
    imported store, which has a name alone.
    """
    if not spec.teacher.seen:
        return None
    stored = spec.teacher.fingerprint
    if teacher.spec.fingerprint == stored:
        return True
    if not isinstance(teacher, TransformersTeacher):
        return False
    own = model_fingerprint(teacher.model)
    if own == stored:
        return True
    return None if own == teacher.spec.fingerprint else False


def refuse_other_tokenizer(source: object, spec: StoreSpec, *, place: str) -> None:
    """Raise TokenizerError where the folder of a teacher holds a tokenizer of other ids.

    source: what was given as the teacher; of one that is no name, the tokenizer is not known.
    spec: of the store.
    place: the store, for the message.

    The teacher that the store was made with passes with any: a dump may be given another tokenizer.
    """
    if not is_name(source):
        return
    path = model_path(str(source))
    if not holds_tokenizer(path):
        return
    found = tokenizer_fingerprint(load_tokenizer(str(path)))
    if found == spec.tokenizer.fingerprint:
        return
    if weights_fingerprint(path) == spec.teacher.fingerprint:
        return
    raise TokenizerError(
        f"the teacher {source} has another tokenizer than the store, so its ids mean other tokens",
        place=place,
        found=found,
        allowed=spec.tokenizer.fingerprint,
        remedy="Give the teacher with which the store was dumped",
    )
