"""A store of many work units in seconds: all are the same shard, as hard links."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from logitstore.format.json import with_check
from logitstore.format.plan import Plan
from logitstore.store.layout import MANIFEST, PLAN, README, StoreLayout

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["link_units"]

_ATTEMPT = "00000000"
_MOST_LINKS = 50_000  # of one file; ext4 allows 65,000


def link_units(out: Path, units: int) -> Plan:
    """Make of a store of one unit one of so many, all alike, that is not sealed."""
    layout = StoreLayout.at(out)
    (unit,) = layout.read_plan().units
    commit = layout.read_commit(unit)
    if commit is None:
        raise RuntimeError("the unit was not committed")
    shard = out / layout.shard_prefix(commit)
    plan = Plan(units=tuple(replace(unit, name=f"{one:06d}") for one in range(units)))
    for number, one in enumerate(plan.units):
        copy = replace(commit, unit=one.name, attempt=_ATTEMPT)
        own = out / layout.shard_prefix(copy)
        fresh = number % _MOST_LINKS == 0
        shutil.copytree(shard, own, copy_function=shutil.copy if fresh else os.link)
        shard = own if fresh else shard
        (out / layout.commit_name(one.name)).write_bytes(with_check(copy.to_json()))
    (out / PLAN).write_bytes(with_check(plan.to_json()))
    for name in (MANIFEST, README):
        (out / name).unlink(missing_ok=True)
    return plan
