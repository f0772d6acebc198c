"""The plan: a corpus cut into work units, each a slice that one worker dumps in one attempt."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from logitstore.format.json import build

__all__ = ["Plan", "WorkUnit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkUnit:
    """A slice of one corpus source, checked by its hash when it is read.

    `start` and `stop` are bytes of the (decompressed) text for .txt and .jsonl, rows for tables.
    """

    name: str  # "000000", its place in the plan
    source: str  # the file's path below the corpus folder, or the split of a Hub data set
    start: int
    stop: int
    first_record: int  # number of its first record in the source, from 0
    first_line: int  # line (or row) number of its first record, from 1
    records: int
    sha256: str  # see docs/format.md, Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every work unit of a store, in corpus order. Written once."""

    units: tuple[WorkUnit, ...]

    def to_json(self) -> dict[str, Any]:
        """As the object that stands in plan.json."""
        return {"units": [asdict(unit) for unit in self.units]}

    @staticmethod
    def from_json(content: Any, *, place: str) -> Plan:
        """The plan that `to_json` gave.

        content: a JSON object of any kind; CorruptionError unless it is a plan.
        place: what an error names.
        """
        plan = build(Plan, content, place=place)
        return Plan(units=tuple(build(WorkUnit, unit, place=place) for unit in plan.units))
