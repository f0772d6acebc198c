"""Requests: calls of a service, many at a time, from any process.

The threads of obstore do not survive a fork: a process that was forked after obstore was used waits
for ever. Such a process (a worker of a data loader, for one) makes its calls through a process of
its own, which it starts at its first call.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from logitstore.store.remote.calls import direct_call
from logitstore.store.remote.helper import Helper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["call", "together"]

_MOST_AT_ONCE = 16  # requests of a process
_first_process: list[int] = []  # the one that used obstore first


def call(name: str, uri: str, *arguments: Any, **named: Any) -> Any:
    """One of `CALLS`, made by this process or, where it was forked, by a helper of it.

    name: of the call.
    uri: of the storage.
    arguments: of the call.
    named: likewise.

    Raises Refused.
    """
    process = os.getpid()
    if not _first_process:
        _first_process.append(process)
    if _first_process[0] == process:
        return direct_call(name, uri, *arguments, **named)
    return _helper(process).call(name, uri, *arguments, **named)


def together(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of some tasks, each of which waits for a request: up to 16 at a time.

    tasks: without arguments.

    Raises what the first of them raises that fails, when all have ended.
    """
    if len(tasks) == 1:
        return [tasks[0]()]
    futures = [_pool(os.getpid()).submit(one) for one in tasks]
    failed = [error for error in (one.exception() for one in futures) if error is not None]
    if failed:
        raise failed[0]
    return [one.result() for one in futures]


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:  # noqa: ARG001
    return ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="requests")


@lru_cache(maxsize=1)
def _helper(process: int) -> Helper:  # noqa: ARG001
    return Helper()
