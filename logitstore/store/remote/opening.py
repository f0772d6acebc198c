"""From a URI to its storage."""

from __future__ import annotations

from urllib.parse import urlsplit

from logitstore.errors import SettingError
from logitstore.store.remote.cached import CachedStorage, with_cache
from logitstore.store.remote.calls import check_uri
from logitstore.store.remote.hub import HubStorage
from logitstore.store.remote.objects import ReadOnlyStorage, RemoteStorage

__all__ = ["open_remote"]


def open_remote(uri: str) -> RemoteStorage | HubStorage | CachedStorage:
    """The storage at a URI; nothing is asked of the server yet.

    uri: `s3://bucket/path`, `gs://bucket/path`, `az://container/path` `https://host/path` or
        `hf://datasets/ORG/NAME[@REVISION][/path]`.

    Raises SettingError for a URI that names no place or carries a secret, and where obstore is not
    installed.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SettingError("the URI names no place for a store", found=uri) from error
    if parts.username or parts.password or parts.query or parts.fragment:
        # What a URI says is shown in messages and written into run.json.
        raise SettingError(
            "the URI of a store holds no password, key or query",
            found=f"{parts.scheme}://{parts.hostname or ''}{parts.path}, and more",
            remedy="Set the credentials of the service in the environment",
        )
    if parts.scheme.lower() == "hf":
        return with_cache(HubStorage.of_uri(uri))
    check_uri(uri)
    kind = ReadOnlyStorage if uri.lower().startswith("http") else RemoteStorage
    return with_cache(kind(uri))
