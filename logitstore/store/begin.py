"""How a store is begun: its spec, its tokenizer and its plan, each read as a reader will first.

A store without rows is begun anew where other settings are asked for, so that a first try with a
wrong option does not block the corrected one. Leases tell whether another process works on it. If
they are wrong, that process reads the other settings before or after it commits, and stops.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from logitstore.codec import codec_for
from logitstore.errors import LogitStoreError, SettingError, SpecError
from logitstore.format.json import canonical_json, fingerprint
from logitstore.store.layout import COMMITS, DATA, PLAN, SPEC, TOKENIZER, is_object_name
from logitstore.store.lease import StoreLease, is_at_work
from logitstore.store.settings import refuse_other_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from logitstore.format.plan import Plan
    from logitstore.format.spec import StoreSpec
    from logitstore.store.layout import StoreLayout

__all__ = ["begin_store", "holds_rows", "is_abandoned", "lease_of"]

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 90.0  # longer than the claim of a killed process stands


def lease_of(layout: StoreLayout, spec: StoreSpec) -> StoreLease:
    """The lease of a process that works on a store by `spec`; not taken yet.

    layout: where the store lies or will lie.
    spec: the settings of the work.
    """
    return StoreLease(layout.storage, settings=fingerprint(spec.identity()))


def begin_store(
    layout: StoreLayout,
    spec: StoreSpec,
    plan: Plan,
    tokenizer: Mapping[str, bytes],
    *,
    lease: StoreLease,
) -> None:
    """Write the spec, the files of the tokenizer and the plan, each where there is none yet.

    layout: where the store lies or will lie.
    spec: what the store is made from.
    plan: its work units; the plan that is there already stands.
    tokenizer: file name -> bytes.
    lease: ours, which has been taken.

    Raises SettingError for what could not be read again, before anything is written, and SpecError
    where a store with rows, or one at which another process is at work, has another spec.
    """
    _refuse_unreadable(layout, spec, plan, tokenizer)
    data = canonical_json(spec.to_json())
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not layout.storage.put_if_absent(SPEC, data):
        try:
            refuse_other_spec(layout.read_spec(), spec, place=layout.place(SPEC))
            break
        except SpecError:
            if time.monotonic() > deadline or holds_rows(layout) or not lease.is_alone():
                raise
        if not _begun_anew(layout, spec, data, lease=lease):
            time.sleep(_POLL_SECONDS)  # another process does it
    for name, content in sorted(tokenizer.items()):
        layout.storage.put_if_absent(f"{TOKENIZER}{name}", content)
    layout.storage.put_if_absent(PLAN, canonical_json(plan.to_json()))


def is_abandoned(layout: StoreLayout) -> bool:
    """Whether a store was begun here in which no row stands and on which nobody works.

    layout: where the store lies.
    """
    return layout.exists() and not holds_rows(layout) and not is_at_work(layout.storage)


def holds_rows(layout: StoreLayout) -> bool:
    """Whether any unit with targets is committed; also where a commit cannot be read.

    layout: where the store lies.
    """
    if layout.sealed():
        return True
    try:
        commits = (layout.read_commit_named(name) for name in layout.storage.list(COMMITS))
        return any(commit is not None and commit.attempt is not None for commit in commits)
    except LogitStoreError:
        return True


def _begun_anew(layout: StoreLayout, spec: StoreSpec, data: bytes, *, lease: StoreLease) -> bool:
    """Put our spec where another stands, and take away what belongs to that; False: not our turn.

    The spec comes last: until then a process that is killed leaves a store without rows as it was.
    """
    if not lease.claim():
        return False
    try:
        stored = layout.read_spec()
        if stored.identity() == spec.identity() or holds_rows(layout) or not lease.is_alone():
            return True  # somebody was faster; the caller looks again
        for prefix in (PLAN, TOKENIZER, COMMITS, DATA):
            for name in list(layout.storage.list(prefix)):
                layout.storage.delete(name)
        layout.storage.put(SPEC, data)
    finally:
        lease.release_claim()
    return True


def _refuse_unreadable(
    layout: StoreLayout, spec: StoreSpec, plan: Plan, tokenizer: Mapping[str, bytes]
) -> None:
    """Raise SettingError for a spec, a plan or a file name that no reader would take."""
    problem = "a store of these settings could not be read again"
    for name in tokenizer:
        if not is_object_name(f"{TOKENIZER}{name}"):
            raise SettingError(
                f"{problem}: a file of the tokenizer has a name that no store can hold",
                found=repr(name),
                allowed="letters, digits, and . _ -",
                remedy="Rename it, or the chat template that it holds",
            )
    try:
        again = layout.parse_spec(canonical_json(spec.to_json()))
        codec_for(again)
        same = again == spec and layout.parse_plan(canonical_json(plan.to_json())) == plan
    except LogitStoreError as error:
        raise SettingError(
            f"{problem}: {error.problem}",
            place=error.place,
            found=error.found,
            allowed=error.allowed,
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingError(f"{problem}: {error}", place=layout.place(SPEC)) from error
    if not same:
        raise SettingError(f"{problem} as it was written", place=layout.place(SPEC))
