"""Where a student stops and how it samples: as the teacher does whose texts it has learnt.

A store tells which ids end its teacher's texts; a chat model has several. A student that stops at
others would go on after its answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from logitstore.plumbing import generation_of
from trainer.training.state_files import warn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from logitstore import StoreSpec

__all__ = ["end_as_teacher"]


def end_as_teacher(student: PreTrainedModel, *, spec: StoreSpec, name: str, fresh: bool) -> None:
    """Give a student the ids that end its teacher's texts; a fresh one samples as the teacher, too.

    Args:
        student: It is changed: its configuration and its generation configuration.
        spec: Of the store.
        name: How the user named the student.
        fresh: Whether it began from a configuration, without a generation configuration of its own.

    What changes of a student that had ends of its own is told by a warning.
    """
    told = generation_of(spec, place=f"store of {getattr(spec.teacher, 'name', 'a teacher')}")
    ends = told.get("eos_token_id", spec.tokenizer.eos_token_id)
    config = student.generation_config
    if config is None:
        return
    own = config.eos_token_id
    if ends is not None and _listed(own) != _listed(ends):
        if not fresh and own is not None:
            warn(
                f"{name}: the student stops at {_shown(own)}, its teacher at {_shown(ends)}: the "
                "run stops where the teacher does"
            )
        _set_ends(student, ends)
    if fresh:
        _sample_alike(config, told)


def _set_ends(student: PreTrainedModel, ends: int | list[int]) -> None:
    student.generation_config.eos_token_id = ends
    for config in {
        id(one): one for one in (student.config, student.config.get_text_config())
    }.values():
        config.eos_token_id = ends


def _sample_alike(config: GenerationConfig, told: dict[str, Any]) -> None:
    """Take the other settings, unless transformers says that they do not fit together."""
    before = {name: getattr(config, name, None) for name in told}
    for name, value in told.items():
        setattr(config, name, value)
    try:
        config.validate(strict=True)
    except ValueError:
        for name, value in before.items():
            if name != "eos_token_id":
                setattr(config, name, value)


def _listed(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else sorted(ids if isinstance(ids, list) else [ids])


def _shown(ids: int | list[int]) -> str:
    return ", ".join(map(str, _listed(ids)))
