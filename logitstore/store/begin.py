"""How a store is begun: its spec, its tokenizer and its plan, each read as a reader will first.

A store without rows is begun anew where other settings are asked for, so that a first try with a
wrong option does not block the corrected one. Leases tell whether another process works on it. If
they are wrong, that process reads the other settings before or after it commits, and stops.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from logitstore.codec import codec_for
from logitstore.errors import LogitStoreError, SettingError, SpecError
from logitstore.format.json import fingerprint, with_check
from logitstore.format.states import HEAD
from logitstore.format.tokenizer_names import is_tokenizer_name
from logitstore.store.layout import COMMITS, DATA, PLAN, SPEC, TOKENIZER, TOKENIZER_HASHES
from logitstore.store.lease import StoreLease, is_at_work
from logitstore.store.settings import refuse_other_spec
from logitstore.store.storage import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from logitstore.format.plan import Plan
    from logitstore.format.spec import StoreSpec
    from logitstore.store.layout import StoreLayout

__all__ = ["begin_store", "holds_head", "holds_rows", "is_abandoned", "lease_of", "settle"]

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
    head: Callable[[], bytes] | None = None,
) -> None:
    """Write the spec, the files of the tokenizer and the plan, each where there is none yet.

    layout: where the store lies or will lie.
    spec: what the store is made from, that plan among it.
    plan: its work units.
    tokenizer: file name -> bytes.
    lease: ours, which has been taken.
    head: gives the bytes of the output layer, where the spec has one; asked where it is not there.

    Whoever puts the spec puts all of it: what a process with another spec, which has not noticed
    yet, may have written meanwhile is no part of the store.

    Raises SettingError for what could not be read again, before anything is written, and SpecError
    where a store with rows, or one at which another process is at work, has another spec.
    """
    _refuse_unreadable(layout, spec, plan, tokenizer)
    data = with_check(_with_hashes(spec, tokenizer).to_json())
    deadline = time.monotonic() + _PATIENCE_SECONDS
    ours = False
    while not (ours or layout.storage.put_if_absent(SPEC, data)):
        try:
            refuse_other_spec(layout.read_spec(), spec, place=layout.place(SPEC))
            break
        except SpecError:
            if time.monotonic() > deadline or holds_rows(layout) or not lease.is_alone():
                raise
        ours = _begun_anew(layout, spec, data, lease=lease)
        if not ours:
            time.sleep(_POLL_SECONDS)  # another process does it, or was faster
    else:
        ours = True
    put = layout.storage.put if ours else layout.storage.put_if_absent
    for name, content in sorted(tokenizer.items()):
        put(f"{TOKENIZER}{name}", content)
    _put_head(layout, spec, head)
    put(PLAN, with_check(plan.to_json()))
    settle(layout, spec, plan)
    _mend_tokenizer(layout, tokenizer)


def settle(layout: StoreLayout, spec: StoreSpec, plan: Plan) -> None:
    """Make sure that the store is the one of `spec`, and that `plan`, which belongs to it, stands.

    layout: where the store lies.
    spec: what this process dumps.
    plan: its work units.

    Raises SpecError where the store was begun anew with another spec.
    """
    refuse_other_spec(layout.read_spec(), spec, place=layout.place(SPEC))
    if not layout.sealed() and not (layout.planned() and layout.read_plan() == plan):
        layout.storage.put(PLAN, with_check(plan.to_json()))


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
    """Put our spec where another stands, and take away what belongs to that; whether we did.

    The spec comes last: until then a process that is killed leaves a store without rows as it was.
    """
    if not lease.claim():
        return False
    try:
        stored = layout.read_spec()
        if stored.identity() == spec.identity() or holds_rows(layout) or not lease.is_alone():
            return False  # somebody was faster
        for prefix in (PLAN, TOKENIZER, HEAD, COMMITS, DATA):
            for name in list(layout.storage.list(prefix)):
                layout.storage.delete(name)
        layout.storage.put(SPEC, data)
    finally:
        lease.release_claim()
    return True


def _with_hashes(spec: StoreSpec, tokenizer: Mapping[str, bytes]) -> StoreSpec:
    """The spec that also tells the hashes of the tokenizer's files."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in tokenizer.items()}
    return replace(spec, provenance={**spec.provenance, TOKENIZER_HASHES: hashes})


def holds_head(layout: StoreLayout, spec: StoreSpec) -> bool:
    """Whether the output layer is there as it was written, where the spec has one.

    layout: where the store lies.
    spec: of the store.
    """
    due = None if spec.states is None else spec.states.head
    if due is None:
        return True
    same_size = layout.storage.size(HEAD) == due.size
    return same_size and sha256_of(layout.storage, HEAD) == due.sha256


def _put_head(layout: StoreLayout, spec: StoreSpec, head: Callable[[], bytes] | None) -> None:
    """Put the output layer, unless it is there as it was written."""
    if head is None or spec.states is None or holds_head(layout, spec):
        return
    data, due = head(), spec.states.head
    if due is not None and hashlib.sha256(data).hexdigest() == due.sha256:
        layout.storage.put(HEAD, data)


def _mend_tokenizer(layout: StoreLayout, tokenizer: Mapping[str, bytes]) -> None:
    """Put a file of the tokenizer anew that has rotted, where we have it as it was."""
    for name, sha256 in layout.tokenizer_hashes(layout.read_spec()).items():
        content = tokenizer.get(name, b"")
        if hashlib.sha256(content).hexdigest() == sha256 and (
            layout.storage.size(f"{TOKENIZER}{name}") is None
            or sha256_of(layout.storage, f"{TOKENIZER}{name}") != sha256
        ):
            layout.storage.put(f"{TOKENIZER}{name}", content)


def _refuse_unreadable(
    layout: StoreLayout, spec: StoreSpec, plan: Plan, tokenizer: Mapping[str, bytes]
) -> None:
    """Raise SettingError for a spec, a plan or a file name that no reader would take."""
    problem = "a store of these settings could not be read again"
    for name in tokenizer:
        if not is_tokenizer_name(name):
            raise SettingError(
                f"{problem}: a file of the tokenizer has a name that no store can hold",
                found=repr(name),
                allowed="the names that transformers gives to files of tokenizers",
                remedy="Rename it, or the chat template that it holds",
            )
    try:
        again = layout.parse_spec(with_check(spec.to_json()))
        codec_for(again)
        same = again == spec and layout.parse_plan(with_check(plan.to_json())) == plan
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
