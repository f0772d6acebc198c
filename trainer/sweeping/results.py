"""What was measured of the runs of a sweep, by setting and seed, in its results.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.training.state_files import read_state, write_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["FORMAT", "Results", "bound_of"]

FORMAT = "trainer-sweep/1"
_NAME = "results.json"


def bound_of(measured: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    """`bound` and `coding_error` of a figure, as `shown` takes them; nothing of an exact one.

    Args:
        measured: An evaluation; None where there is none.
        key: Of the figure.
    """
    bound = ((measured or {}).get("bounds") or {}).get(key)
    if bound is None:
        return {}
    coding_error = ((measured or {}).get("coding_errors") or {}).get(key)
    return {"bound": bound, "coding_error": coding_error}


class Results:
    """The measurements of a sweep on one held-out store.

    Args:
        out: The folder of the sweep.
        held_out: The fingerprint of the store; what was measured on another one is not looked at.
    """

    def __init__(self, out: Path, *, held_out: str) -> None:
        self._path = out / _NAME
        self._held_out = held_out
        found = read_state(self._path, kind=FORMAT, unhashed=None) or {}
        same = found.get("held_out") == held_out
        self._runs: dict[str, dict[str, Any]] = found["runs"] if same else {}

    def known(self, name: str, seed: int) -> dict[str, Any] | None:
        """What was measured of a run; None where that is nothing yet."""
        return self._runs.get(f"{name}_seed-{seed}")

    def note(self, name: str, seed: int, found: dict[str, Any]) -> None:
        """Keep what was measured of a run, on the disk too."""
        self._runs[f"{name}_seed-{seed}"] = found
        content = {"format": FORMAT, "held_out": self._held_out, "runs": self._runs}
        write_state(self._path, content)

    def failed(self) -> dict[str, str]:
        """The runs that gave no model, and why."""
        return {name: one["failed"] for name, one in self._runs.items() if "failed" in one}

    def figure(self, name: str, key: str, *, seeds: int) -> dict[int, float]:
        """One figure of a setting by the seed, where it was measured.

        Args:
            name: Of the setting.
            key: Of the figure, as in an evaluation.
            seeds: How many seeds the sweep has.
        """
        found = {}
        for seed in range(seeds):
            value = ((self.known(name, seed) or {}).get("measured") or {}).get(key)
            if isinstance(value, int | float):
                found[seed] = float(value)
        return found

    def bound(self, name: str, key: str, *, seeds: int) -> dict[str, Any]:
        """What the mean of a figure over the seeds is, as `bound_of` tells it of one.

        A mean is a bound where any of its values is; its coding error is the mean of theirs, and
        None where one of them has none.

        Args:
            name: Of the setting.
            key: Of the figure, as in an evaluation.
            seeds: How many seeds the sweep has.
        """
        each = [
            bound_of((self.known(name, seed) or {}).get("measured"), key)
            for seed in self.figure(name, key, seeds=seeds)
        ]
        found = [one for one in each if one]
        if not found:
            return {}
        errors = [one["coding_error"] for one in found]
        mean = None if None in errors else sum(errors) / len(each)
        return {"bound": found[0]["bound"], "coding_error": mean}
