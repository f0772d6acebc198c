"""A process that makes calls of services for one that cannot, and how the two talk.

    python -m logitstore.store.remote.helper

A question is a line of JSON, followed by as many bytes as it says; so is an answer, which carries
the number of its question. Answers come in any order. The helper ends when its input does: with the
process that asks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

from logitstore.errors import LogitStoreError, SettingError
from logitstore.store.remote.calls import Got, Head, Refused, direct_call

__all__ = ["Helper"]

_MOST_AT_ONCE = 16
_ENDED = "the process that makes requests has ended"
_KINDS: dict[str, Any] = {"Got": Got, "Head": Head}


class Helper:
    """The asking side. Threads may ask at the same time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "logitstore.store.remote.helper"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._lock = threading.Lock()
        self._asked: dict[int, Future[Any]] = {}
        self._count = 0
        threading.Thread(target=self._listen, name="answers", daemon=True).start()

    def call(self, name: str, uri: str, *arguments: Any, **named: Any) -> Any:
        """See `requests.call`."""
        data = next((one for one in arguments if isinstance(one, bytes)), b"")
        plain = [None if isinstance(one, bytes) else one for one in arguments]
        answer: Future[Any] = Future()
        with self._lock:
            self._count += 1
            self._asked[self._count] = answer
            question = {"n": self._count, "call": name, "uri": uri, "a": plain, "k": named}
            try:
                _send(self._process.stdin, question, data)
            except OSError as error:
                raise Refused("other", _ENDED) from error
        return answer.result()

    def _listen(self) -> None:
        while (heard := _receive(self._process.stdout)) is not None:
            content, data = heard
            _settle(self._asked.pop(content["n"]), content, data)
        with self._lock:
            left, self._asked = list(self._asked.values()), {}
        for one in left:
            one.set_exception(Refused("other", _ENDED))


def _settle(asked: Future[Any], content: dict[str, Any], data: bytes) -> None:
    if content["is"] == "refused":
        asked.set_exception(Refused(*content["value"]))
    elif content["is"] == "error":
        asked.set_exception(SettingError(content["value"]))
    elif content["is"] == "Got":
        asked.set_result(Got(data, *content["value"]))
    elif content["is"] in _KINDS:
        asked.set_result(_KINDS[content["is"]](*content["value"]))
    else:
        asked.set_result(content["value"])


def _send(pipe: IO[bytes] | None, content: dict[str, Any], data: bytes) -> None:
    if pipe is None:
        raise OSError("there is no pipe")
    line = json.dumps({**content, "bytes": len(data)}).encode() + b"\n"
    pipe.write(line)
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> tuple[dict[str, Any], bytes] | None:
    """The next question or answer; None at the end."""
    line = b"" if pipe is None else pipe.readline()
    if pipe is None or not line.endswith(b"\n"):
        return None
    content = json.loads(line)
    data = pipe.read(content["bytes"])
    return (content, data) if len(data) == content["bytes"] else None


def _answer(content: dict[str, Any], data: bytes, lock: threading.Lock) -> None:
    arguments = list(content["a"])
    if content["call"] == "put":
        arguments[1] = data
    told: dict[str, Any]
    found = b""
    try:
        value = direct_call(content["call"], content["uri"], *arguments, **content["k"])
    except Refused as error:
        told = {"is": "refused", "value": [error.kind, error.told]}
    except LogitStoreError as error:
        told = {"is": "error", "value": str(error)}
    else:
        kind = type(value).__name__
        if isinstance(value, Got):
            found, value = value.data, value[1:]
        told = {"is": kind if kind in _KINDS else "value", "value": value}
    with lock:
        _send(sys.stdout.buffer, {**told, "n": content["n"]}, found)


def main() -> None:
    """Answer until the input ends."""
    lock = threading.Lock()
    with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
        while (heard := _receive(sys.stdin.buffer)) is not None:
            pool.submit(_answer, *heard, lock)


if __name__ == "__main__":
    main()
