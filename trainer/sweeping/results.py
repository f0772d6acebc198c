"""What was measured of the runs of a sweep, by setting and seed, in its results.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.training.state_files import read_state, write_state

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FORMAT", "Results"]

FORMAT = "trainer-sweep/1"
_NAME = "results.json"


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
