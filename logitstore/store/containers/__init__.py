"""Containers: how the columns of a shard are stored in objects.

Naming a container imports nothing: zarr or pyarrow is imported when a container is used.
"""

from importlib import import_module

from logitstore.store.containers.base import Container, ShardReader

__all__ = ["CONTAINERS", "Container", "ShardReader", "load_container"]

# name -> "module:class", so that a name can be checked without importing the module.
CONTAINERS: dict[str, str] = {
    "zarr": "logitstore.store.containers.zarr:ZarrContainer",
    "parquet": "logitstore.store.containers.parquet:ParquetContainer",
}


def load_container(name: str) -> Container:
    """The container `name`, a key of `CONTAINERS`; its module is imported."""
    module, _, attribute = CONTAINERS[name].partition(":")
    container: Container = getattr(import_module(module), attribute)()
    return container
