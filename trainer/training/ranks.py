"""The processes of a run: one that has died is named by the others, which do not wait for it.

Each knows the process numbers of those on its own machine, and looks four times a second whether
they live. Where a collective then fails, or a launcher ends the others, that is told as the death
that it comes of. A collective that waits on (gloo and NCCL do so for half an hour, if no connection
breaks) ends with its process a few seconds later. A death on another machine is seen by the broken
connection alone.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list, gather_object
from torch.distributed.distributed_c10d import _get_default_store

from logitstore import LogitStoreError, WorkerError
from logitstore.plumbing import is_alive
from trainer.training import run_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import TrainingArguments

__all__ = ["Ranks", "begin_together"]

_LOOK_SECONDS = 0.25
_GRACE_SECONDS = 3.0  # in which a thread that meets a broken connection says so by itself
_LEFT = "left/{}"  # in the store of torch.distributed: a rank was interrupted
_RESUME = "Go on from the last whole checkpoint (--resume)"
# What gloo, NCCL and the store of torch.distributed say of a connection that is lost.
_LOST = ("gloo", "NCCL", "closed by peer", "Connection reset", "Broken pipe", "TCPStore")


@dataclass(frozen=True, slots=True)
class _Process:
    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """The other processes of a run."""

    me: _Process
    others: tuple[_Process, ...]
    _dead: list[_Process] = field(default_factory=list)  # the first that were seen to be
    _stopped: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    def meet(args: TrainingArguments) -> Ranks:
        """Tell the others who we are, and learn who they are; every rank has to call it."""
        me = _Process(args.process_index, socket.gethostname(), os.getpid())
        if args.world_size == 1:
            return Ranks(me=me, others=())
        met: list[Any] = gather_object([(me.rank, me.host, me.pid)])
        return Ranks(me=me, others=tuple(_Process(*one) for one in met if one[0] != me.rank))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise WorkerError in place of what comes of the death of another rank."""
        if not self.others:
            yield
            return
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()
        try:
            yield
        except LogitStoreError:
            raise
        except KeyboardInterrupt as error:
            self._refuse_death(error)
            raise
        except Exception as error:
            lost = any(one in str(error) for one in _LOST)
            try:
                self._look(patient=lost)
            except KeyboardInterrupt:  # a launcher ends us because of the same death
                self._look()
            if self._dead:
                raise self._told() from error
            if lost:
                raise WorkerError(
                    f"the connection to another rank is lost: {error}", remedy=_RESUME
                ) from error
            raise
        finally:
            self._stopped.set()

    def _refuse_death(self, error: KeyboardInterrupt) -> None:
        """Raise WorkerError where a launcher interrupts us because another rank has died.

        Where all are interrupted, some end before others: each says before that it does.
        """
        store = None
        with suppress(Exception):
            store = _get_default_store()
            store.set(_LEFT.format(self.me.rank), "1")
        self._look()
        for one in self._dead:
            left = False
            with suppress(Exception):
                left = store is not None and store.check([_LEFT.format(one.rank)])
            if not left:
                raise self._told() from error

    def _told(self) -> WorkerError:
        names = ", ".join(map(str, self._dead))
        return WorkerError(
            f"{names} of the run has ended: killed, or by an error of its own", remedy=_RESUME
        )

    def _look(self, *, patient: bool = False) -> None:
        """Note who has died; a process whose connections are closed may still be about to."""
        until = time.monotonic() + (_GRACE_SECONDS if patient else 0.0)
        here = socket.gethostname()
        while not self._dead:
            found = [one for one in self.others if one.host == here and not is_alive(one.pid)]
            self._dead.extend(found)
            if found or time.monotonic() >= until:
                return
            self._stopped.wait(_LOOK_SECONDS)

    def _watch(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            self._look()
            if self._dead and not self._stopped.wait(_GRACE_SECONDS):
                # The main thread waits in a collective, where nothing can be raised.
                print(f"error: {self._told().command_line_message}", file=sys.stderr, flush=True)
                os._exit(1)


def begin_together(
    args: TrainingArguments,
    *,
    wanted: dict[str, Any],
    parts: list[dict[str, Any]] | None,
    resume: bool,
) -> dict[str, Any] | None:
    """`run_folder.begin`, called by the first rank only; the others get its result.

    Args:
        args: For the folder of the run and the rank.
        wanted: As `begin` takes it, and what follows.
        parts: Likewise.
        resume: Likewise.
    """
    answer: list[Any] = [None]
    if args.process_index == 0:
        try:
            out = Path(args.output_dir)
            answer = [run_folder.begin(out, wanted=wanted, parts=parts, resume=resume)]
        except LogitStoreError as error:
            answer = [error]
    if args.world_size > 1:
        broadcast_object_list(answer)
    if isinstance(answer[0], LogitStoreError):
        raise answer[0]
    return answer[0]
