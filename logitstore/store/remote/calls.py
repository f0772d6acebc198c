"""The calls that are made of a service, by obstore: plain values go in, plain values come out.

obstore repeats what a server or a connection refuses for a time, with waits that grow, and takes
credentials from the environment as the tools of each service do. What it answers is compared with
what was asked.
"""

from __future__ import annotations

import os
import re
import time
from datetime import timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from logitstore.errors import SettingError

__all__ = [
    "CALLS",
    "ENDPOINTS",
    "Got",
    "Head",
    "Refused",
    "check_uri",
    "denied_remedy",
    "direct_call",
    "token_for",
]

_REQUEST_SECONDS, _RETRY_SECONDS, _RETRIES = 60, 120, 8
_WRONG_ANSWERS, _WRONG_SECONDS = 3, 0.2  # how often one is asked for again, and after how long
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_TOKEN, _TOKEN_HOSTS = "LOGITSTORE_TOKEN", "LOGITSTORE_TOKEN_HOSTS"
# What a server answers that lost the range on the way: asked again, it may know better.
_WRONG_ANSWER = re.compile(r"Requested \d+\.\.\d+, got|Content-Range header not present")
_BEHIND_THE_END = re.compile(
    r"\b416\b|Requested range not satisfiable|Wanted range starting at \d+, but object was only"
)
_QUERY = re.compile(r"\?\S*")  # of a URL in an error; it may be signed


class Got(NamedTuple):
    """The bytes of an object, and which version of it they are of."""

    data: bytes
    size: int  # of the whole object
    etag: str | None
    modified: float  # seconds since 1970


class Head(NamedTuple):
    """What a service says of an object."""

    size: int
    etag: str | None
    modified: float


class Refused(Exception):
    """What a service does not do.

    kind: "missing", "denied", "changed" (it is no more the version that was asked for), "ranges"
        (it gives whole objects alone), "wrong" (it answers another question) or "other".
    told: its reason, in a line, without what is secret.
    """

    def __init__(self, kind: str, told: str) -> None:
        super().__init__(kind, told)
        self.kind, self.told = kind, told


def check_uri(uri: str) -> None:
    """Raise SettingError for a URI that names no place, and where obstore is not installed.

    uri: as the user wrote it.
    """
    _opened(uri, os.getpid())


def _get(uri: str, name: str, start: int, stop: int | None, etag: str | None) -> Got:
    """The object's bytes from `start` to `stop`, or to its end: one request.

    Fewer where the object ends before. With `etag`, of that version alone.
    """
    import obstore

    options: Any = {} if etag is None else {"if_match": etag}
    if start or stop is not None:
        options["range"] = {"offset": start} if stop is None else (start, stop)
    answer = obstore.get(_opened(uri, os.getpid()), name, options=options)
    data, meta = bytes(answer.bytes()), answer.meta
    wanted = (start, meta["size"] if stop is None else min(stop, meta["size"]))
    if answer.range != wanted or len(data) != wanted[1] - wanted[0]:
        told = f"{len(data)} bytes from {answer.range[0]}, not {wanted[1] - wanted[0]} from {start}"
        raise Refused("wrong", told)
    return Got(data, *_head_of(meta))


def _head(uri: str, name: str) -> Head | None:
    import obstore

    try:
        return _head_of(obstore.head(_opened(uri, os.getpid()), name))
    except FileNotFoundError:
        return None


def _head_of(meta: Any) -> Head:
    return Head(int(meta["size"]), meta["e_tag"], float(meta["last_modified"].timestamp()))


def _names(uri: str, prefix: str) -> list[str]:
    """The names that begin with a prefix."""
    import obstore

    # A service lists what is below a part of a path; the rest of the prefix is looked at here.
    folder = prefix[: prefix.rfind("/")] if "/" in prefix else None
    listed = obstore.list(_opened(uri, os.getpid()), folder)
    return [one["path"] for part in listed for one in part if one["path"].startswith(prefix)]


def _put(uri: str, name: str, data: bytes, *, create: bool = False) -> bool:
    """Store an object; with `create`, unless there is one: then False."""
    import obstore
    from obstore.exceptions import AlreadyExistsError

    how: Any = {"mode": "create", "use_multipart": False} if create else {}
    try:
        obstore.put(_opened(uri, os.getpid()), name, data, **how)
    except AlreadyExistsError:
        return False
    return True


def _delete(uri: str, name: str) -> None:
    import obstore

    try:
        obstore.delete(_opened(uri, os.getpid()), name)
    except FileNotFoundError:
        return


# Whatever is asked of a service, by name.
CALLS: dict[str, Any] = {
    "get": _get,
    "head": _head,
    "names": _names,
    "put": _put,
    "delete": _delete,
}


def direct_call(call: str, uri: str, *arguments: Any, **named: Any) -> Any:
    """One of `CALLS`, made by this process. An answer to another question is asked for again.

    call: its name.
    uri: of the storage.
    arguments: of the call.
    named: likewise.

    Raises Refused, also for what the network refuses.
    """
    for again in range(_WRONG_ANSWERS, -1, -1):
        try:
            return _told(call, uri, *arguments, **named)
        except Refused as error:
            if error.kind != "wrong" or not again:
                raise
            time.sleep(_WRONG_SECONDS)
    raise AssertionError  # the last turn returns or raises


def _told(call: str, uri: str, *arguments: Any, **named: Any) -> Any:
    from obstore import exceptions

    try:
        return CALLS[call](uri, *arguments, **named)
    except FileNotFoundError as error:
        raise Refused("missing", "") from error
    except exceptions.PreconditionError as error:
        raise Refused("changed", _first_words(error)) from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise Refused("denied", _first_words(error)) from error
    except (exceptions.BaseError, OSError) as error:
        told = _first_words(error)
        if call == "get" and _BEHIND_THE_END.search(str(error)):
            return Got(b"", 0, None, 0.0)
        if "Range request not supported" in told:
            raise Refused("ranges", told) from error
        raise Refused("wrong" if _WRONG_ANSWER.search(told) else "other", told) from error


@lru_cache(maxsize=64)
def _opened(uri: str, process: int) -> Any:  # noqa: ARG001
    """What obstore opens of a URI, once in a process."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise SettingError(
            "obstore is not installed, which reads and writes stores that are not in a folder",
            found=uri,
            remedy="pip install 'logitstore[remote]'",
        ) from error
    options: Any = {"timeout": timedelta(seconds=_REQUEST_SECONDS)}
    endpoints = [os.environ.get(name, "") for name in ENDPOINTS]
    if any(one.lower().startswith("http://") for one in (uri, *endpoints)):
        options["allow_http"] = True  # asked for by name; obstore wants to be told so
    if (token := token_for(uri)) is not None:
        options["default_headers"] = {"authorization": f"Bearer {token}"}
    try:
        return from_url(
            uri,
            client_options=options,
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
        )
    except (BaseError, ValueError) as error:
        raise SettingError(
            f"the URI names no place for a store: {_first_words(error)}", found=uri
        ) from error


def token_for(uri: str) -> str | None:
    """The token of `logitstore serve` that a web server is sent, if it is to see it at all.

    It goes to this machine, and to the servers that are named beside it: a store may be read from
    anywhere, and who serves one must not get the token of another.
    """
    parts = urlsplit(uri)
    if parts.scheme.lower() not in ("http", "https"):
        return None
    named = os.environ.get(_TOKEN_HOSTS, "").lower().replace(",", " ").split()
    known = parts.netloc.lower() in named or is_loopback(parts.hostname or "")
    token = (os.environ.get(_TOKEN) or None) if known else None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise SettingError(
            f"what {_TOKEN} holds can be no token",
            found=f"{len(token)} characters, of which some cannot be sent",
            remedy="Leave out line ends and whatever is not ASCII",
        )
    return token


def denied_remedy(uri: str) -> str:
    """What to do where a service denies access.

    uri: of the store.
    """
    parts = urlsplit(uri)
    if parts.scheme.lower() not in ("http", "https"):
        return "Set the credentials of the service in the environment"
    if token_for(uri) is not None:
        return f"The server refuses what {_TOKEN} holds: set it to the token of this server"
    if os.environ.get(_TOKEN):
        return f"{_TOKEN} was not sent there: set {_TOKEN_HOSTS}={parts.netloc} if it is its token"
    if is_loopback(parts.hostname or ""):
        return f"If the server asks for a token, set {_TOKEN}"
    return f"If the server asks for a token, set {_TOKEN}, and {_TOKEN_HOSTS}={parts.netloc}"


def is_loopback(host: str) -> bool:
    """Whether an address is that of the machine itself, which no other reaches.

    host: an address, or `localhost`.
    """
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _first_words(error: Exception) -> str:
    """What an error of obstore says, without the structures that it prints behind it."""
    return _QUERY.sub("?...", " ".join(str(error).split("\n\n")[0].split()))[:300]
