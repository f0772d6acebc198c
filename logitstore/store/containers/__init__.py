"""Containers: how a shard's columns lie in objects. `CONTAINERS` lists the ones there are.

Their names cost nothing: zarr or pyarrow is loaded when a container is used.
"""

from importlib import import_module

from logitstore.store.containers.base import Container, ShardReader

__all__ = ["CONTAINERS", "Container", "ShardReader", "load_container"]

# name -> module:class, so that a name can be checked without importing what reads it.
CONTAINERS: dict[str, str] = {
    "zarr": "logitstore.store.containers.zarr:ZarrContainer",
    "parquet": "logitstore.store.containers.parquet:ParquetContainer",
}


def load_container(name: str) -> Container:
    """The container of that name, its module imported now."""
    module, _, attribute = CONTAINERS[name].partition(":")
    container: Container = getattr(import_module(module), attribute)()
    return container
