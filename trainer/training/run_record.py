"""The content of run.json: its fields, what they may hold, and how they agree with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from logitstore import SettingError, StoreError
from logitstore.plumbing import fingerprint
from trainer.data.packing import round_up
from trainer.data.streams import mix_fingerprint
from trainer.training.fit_options import FIT_OPTIONS
from trainer.training.state_files import (
    FLAG,
    HASHES,
    NUMBER,
    NUMBERS,
    SECONDS,
    TEXT,
    Field,
    count,
    read_state,
    refuse_odd_fields,
    same,
    write_state,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "FORMAT",
    "LENGTH",
    "RECORD",
    "UNHASHED",
    "earlier_fingerprints",
    "learnt_stores",
    "read_record",
    "run_fingerprint",
    "write_record",
]

FORMAT = "trainer-run/2"
UNHASHED = "trainer-run/1"  # of earlier versions: no hash of its own, none of the result
RECORD = "run.json"

_OBJECT = Field(allowed="an object", fits=lambda value: isinstance(value, dict))
_BEGUN = {
    "format": TEXT,
    "wanted": _OBJECT,
    "settings": _OBJECT,
    "packing": _OBJECT,
    "store": TEXT,
    "teacher": TEXT,
    "parameters": count(1),
    "finished": FLAG,
}
_FINISHED = {"seconds": SECONDS, "metrics": NUMBERS}
# What files of earlier versions lack: the hash of the student's configuration, those of the result.
_SINCE_HASHES, _OF_A_RESULT = {"configuration": TEXT}, {"files": HASHES}
# Of a run with --skip-damaged: number, place and problem of each block that is left out.
_DAMAGED = {"damaged": Field(allowed="blocks", fits=lambda value: _are_blocks(value))}
# Of a run whose student has another tokenizer than the store: what was found in its texts.
_CROSSED = {"crossed": _OBJECT}
# Of a run that learns from several stores: what they are called, and how they are mixed.
_MIXED = {"parts": Field(allowed="stores", fits=lambda value: isinstance(value, list))}
# Of one that learns from the mean of several teachers: their stores, and the documents of each that
# are not in all.
_AVERAGED = {
    "averaged": Field(allowed="stores", fits=lambda value: isinstance(value, list)),
    "left_out": Field(allowed="numbers of documents", fits=lambda value: isinstance(value, list)),
}
_PART = {"name": TEXT, "store": TEXT, "teacher": TEXT, "weight": NUMBER}
# Of a run that was measured on a held-out store: the best step, its value, by which figure.
_BEST = {"best": _OBJECT}
# Of a run with --select: for each store the value that targets are cut off at, and what it takes.
_SELECTED = {"selected": Field(allowed="cuts", fits=lambda value: _are_cuts(value))}
# Of a run with --hint-weight: pairs of layers, what their differences are divided by, and the
# parameters of the maps.
_HINTED = {"hints": Field(allowed="pairs of layers", fits=lambda value: _are_hints(value))}
# Of a run that several processes began, whose number the number of its bins is a multiple of.
_SEVERAL = {"ranks": count(2, 1 << 20)}
# Of a run that was made longer: how many steps it was to have before, each time.
_EXTENDED = {"extended": Field(allowed="numbers of steps", fits=lambda value: _are_steps(value))}
_PACKING = {"shuffle": _OBJECT, "bins": count(1), "bin_tokens": count(1)}
# 64 lanes are the most that a shuffle is made with.
_SHUFFLE = {
    "fingerprint": TEXT,
    "seed": count(0, 2**32 - 1),
    "lanes": count(1, 64),
    "window": count(1),
}
_MIX = {"parts": Field(allowed="stores", fits=lambda value: isinstance(value, list))}
_SHUFFLED_PART = {"shuffle": _OBJECT, "weight": NUMBER, "blocks": count(1)}
# What decides the weights of the result: a checkpoint names the hash of it.
_DECIDING = ("wanted", "settings", "packing")
LENGTH = ("steps", "epochs")  # the settings that say how long a run is


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Write the content of run.json into the folder of a run, whole or not at all."""
    write_state(out / RECORD, record)


def read_record(out: Path) -> dict[str, Any] | None:
    """The content of run.json in the folder of a run, checked; None where there is none.

    Raises CorruptionError where it has changed since it was written or is no JSON, StoreError where
    it cannot be read, or where a field is not what it must be.
    """
    place = out / RECORD
    found = read_state(place, kind=FORMAT, unhashed=UNHASHED)
    if found is None:
        return None
    done, hashed = found.get("finished") is True, found["format"] == FORMAT
    fields = _BEGUN | (_FINISHED if done else {}) | (_SINCE_HASHES if hashed else {})
    fields |= _OF_A_RESULT if done and hashed else {}
    wanted = found.get("wanted")
    if "damaged" in found or (isinstance(wanted, dict) and wanted.get("skip_damaged")):
        fields |= _DAMAGED
    if "best" in found:
        fields |= _BEST
    if "ranks" in found:
        fields |= _SEVERAL
    if "extended" in found:
        fields |= _EXTENDED
    if "crossed" in found:
        fields |= _CROSSED
    if "parts" in found:
        fields |= _MIXED
    if "averaged" in found:
        fields |= _AVERAGED
    if "selected" in found or (isinstance(wanted, dict) and wanted.get("select")):
        fields |= _SELECTED
    if "hints" in found or (isinstance(wanted, dict) and wanted.get("hint_weight")):
        fields |= _HINTED
    refuse_odd_fields(found, fields, place=place)
    _refuse_odd_settings(found, place=place)
    _refuse_odd_packing(found, place=place)
    return found


def _are_steps(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and one > 0 for one in value)


def _are_blocks(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, list) and [type(part) for part in one] == [int, str, str] for one in value
    )


def _are_cuts(value: Any) -> bool:
    cut = {"value": NUMBER, "share": NUMBER, "targets": count(1)}
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and one.keys() == cut.keys()
        and all(field.fits(one[name]) for name, field in cut.items())
        for one in value
    )


def _are_hints(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"pairs", "scales", "parameters"}:
        return False
    pairs, scales = value["pairs"], value["scales"]
    return (
        count(1).fits(value["parameters"])
        and isinstance(pairs, list)
        and isinstance(scales, list)
        and len(pairs) == len(scales) > 0
        and all(_are_two(one) and all(type(part) is int for part in one) for one in pairs)
        and all(_are_two(one) and all(part > 0 for part in one) for one in scales)
    )


def _are_two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(NUMBER.fits, value))


def run_fingerprint(record: Mapping[str, Any]) -> str:
    """A hash of all in a run.json that decides the weights after a step of the run.

    How many steps it is to have is left out: a run may be made longer.
    """
    content = {
        name: {key: value for key, value in record[name].items() if key not in LENGTH}
        for name in _DECIDING
    }
    return fingerprint(content | {"length": "any"})


def earlier_fingerprints(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The hashes by which checkpoints of earlier versions name the run: with its steps."""
    return (fingerprint({name: record[name] for name in _DECIDING}),)


def learnt_stores(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The fingerprints of the stores that a run learns from.

    Args:
        record: The content of its run.json.
    """
    several = record.get("parts") or record.get("averaged")
    return tuple(one["store"] for one in several) if several else (record["store"],)


def _refuse_odd_settings(record: dict[str, Any], *, place: Path) -> None:
    """Raise StoreError unless `settings` are those of `wanted` and the number of steps."""
    wanted, settings = record["wanted"], record["settings"]
    odd = {*settings} ^ {*wanted, "steps"}
    if odd:
        raise StoreError(f"the field settings.{min(odd)} is missing or unknown", place=place)
    options = {one.name: one for one in FIT_OPTIONS}
    try:
        for name, value in settings.items():
            if name in options:
                options[name].check(value)
    except SettingError as error:
        raise StoreError(f"settings: {error.problem}", place=place, found=error.found) from error
    steps = settings["steps"] if wanted.get("steps") is None else wanted["steps"]
    refuse_odd_fields({"steps": steps}, {"steps": count(1)}, place=place, of="settings.")
    _refuse_difference(settings, wanted | {"steps": steps}, of="settings.", place=place)
    _refuse_difference(record, {"store": wanted.get("store")}, of="", place=place)


def _refuse_odd_packing(record: dict[str, Any], *, place: Path) -> None:
    """Raise StoreError for a packing that could not have been made with the settings."""
    packing, settings = record["packing"], record["settings"]
    refuse_odd_fields(packing, _PACKING, place=place, of="packing.")
    made = {name: settings[name] for name in ("seed", "window") if settings.get(name) is not None}
    if "parts" in record:
        _refuse_odd_mix(record, made, place=place)
    else:
        made |= {"fingerprint": record["store"]}
        _refuse_odd_shuffle(packing["shuffle"], made, of="packing.shuffle.", place=place)
    bins = -(-settings.get("batch_tokens", 1) // packing["bin_tokens"])
    if settings.get("micro_tokens") is None:
        made = {"bins": round_up(bins, record.get("ranks", 1))}
    else:
        made = {"bins": bins, "bin_tokens": settings["micro_tokens"]}
    _refuse_difference(packing, made, of="packing.", place=place)


def _refuse_odd_mix(record: dict[str, Any], made: dict[str, Any], *, place: Path) -> None:
    """Raise StoreError unless the order is over the very stores that the run learns from."""
    mix, parts = record["packing"]["shuffle"], record["parts"]
    refuse_odd_fields(mix, _MIX, place=place, of="packing.shuffle.")
    if len(mix["parts"]) != len(parts):
        raise StoreError("the field parts does not agree with the packing", place=place)
    for number, (one, part) in enumerate(zip(mix["parts"], parts, strict=True)):
        of = f"packing.shuffle.parts.{number}."
        refuse_odd_fields(one, _SHUFFLED_PART, place=place, of=of)
        refuse_odd_fields(part, _PART, place=place, of=f"parts.{number}.")
        own = made | {"fingerprint": part["store"]}
        _refuse_odd_shuffle(one["shuffle"], own, of=f"{of}shuffle.", place=place)
        _refuse_difference(one, {"weight": part["weight"]}, of=of, place=place)
    whole = mix_fingerprint((one["store"], float(one["weight"])) for one in parts)
    _refuse_difference(record, {"store": whole}, of="", place=place)


def _refuse_odd_shuffle(shuffle: Any, made: Mapping[str, Any], *, of: str, place: Path) -> None:
    refuse_odd_fields(shuffle, _SHUFFLE, place=place, of=of)
    _refuse_difference(shuffle, made, of=of, place=place)


def _refuse_difference(
    found: Mapping[str, Any], made: Mapping[str, Any], *, of: str, place: Path
) -> None:
    """Raise StoreError for a field of `found` that is not as in `made`."""
    for name, value in made.items():
        if not same(found[name], value):
            raise StoreError(
                f"the field {of}{name} does not agree with the others",
                place=place,
                found=repr(found[name])[:80],
                allowed=repr(value)[:80],
            )
