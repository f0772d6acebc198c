"""The settings of a store as its user gave them, for the message that they are others now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore.codec import CODECS
from logitstore.errors import SpecError
from logitstore.sparsify import sparsifier_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.format.spec import CodecSpec, StoreSpec

__all__ = ["refuse_other_spec"]

# Fields of a spec that are an option of the command line. All others are told by their own name.
_OPTIONS = {
    "batch_tokens": "--batch-tokens",
    "container": "--format",
    "corpus.limit": "--limit",
    "corpus.unit_tokens": "--unit-tokens",
    "teacher.device": "--device",
    "teacher.dtype": "--dtype",
    "text.ignored_fields": "--ignore-field",
    "text.mask_field": "--mask-field",
    "text.max_length": "--max-length",
    "text.messages_field": "--messages-field",
    "text.sampler_field": "--sampler-field",
    "text.records": "--records",
    "text.template_date": "--template-date",
    "text.teacher_system": "--teacher-system",
    "text.template_kwargs": "--template-kwargs",
    "text.text_field": "--text-field",
    "text.tokens_field": "--tokens-field",
    "text.turns": "--turns",
    "text.positions": "--positions",
    "states.layers": "--hidden-layers",
}


def refuse_other_spec(found: StoreSpec, wanted: StoreSpec, *, place: str) -> None:
    """Raise SpecError, naming every setting that differs, unless both specs say the same.

    found: the spec that the store was begun with.
    wanted: the spec of the settings that are given now.
    place: what the error names.
    """
    if found.identity() == wanted.identity():
        return
    # The options of one sparsifier mean nothing to another.
    alike = found.sparsifier.name == wanted.sparsifier.name
    listed = _differences(_settings(found, whole=alike), _settings(wanted, whole=alike))
    listed = listed or _differences(_flat(found.identity()), _flat(wanted.identity()))
    raise SpecError(
        f"the store was begun with other settings: {', '.join(listed)}",
        place=place,
        remedy="Repeat the settings it was begun with, or name another folder with --out",
    )


def _settings(spec: StoreSpec, *, whole: bool) -> dict[str, Any]:
    """Each setting by the flag of its option, or by its field in the spec where it has none.

    whole: whether the options of the sparsifier are among them, or its name alone.
    """
    fields = {
        _OPTIONS.get(name, name): value
        for name, value in _flat(spec.identity()).items()
        if not name.startswith(("sparsifier.", "codec."))
        # All others follow from the teacher, the sparsifier and the fidelity.
        and not (name.startswith("states.") and name != "states.layers")
    }
    if "--hidden-layers" in fields:
        fields["--hidden-layers"] = ",".join(map(str, fields["--hidden-layers"])) or None
    asked = {"--sparsify": spec.sparsifier.name}
    if whole:
        asked |= sparsifier_of(spec.sparsifier).settings(spec.sparsifier)
    return fields | asked | {"--fidelity": _fidelity(spec.codec)}


def _fidelity(codec: CodecSpec) -> str:
    """The name of the codec's parameters; the parameters themselves where they have none."""
    presets = CODECS[codec.id].presets if codec.id in CODECS else {}
    names = [name for name, values in presets.items() if dict(values) == codec.parameters]
    return names[0] if names else f"{codec.id} {codec.parameters}"


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    return [
        f"{name}{' ' if name.startswith('--') else ': '}"
        f"{_told(found.get(name))} there, {_told(wanted.get(name))} here"
        for name in names
    ]


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
