"""Containers: how a shard's columns lie in files. `CONTAINERS` lists the ones there are.

Their names cost nothing: zarr or pyarrow is loaded when a container is used.
"""

from collections.abc import Mapping

from logitstore.lazy import LazyTable
from logitstore.store.containers.base import Container, ShardReader

__all__ = ["CONTAINERS", "Container", "ShardReader"]

CONTAINERS: Mapping[str, Container] = LazyTable(
    {
        "zarr": "logitstore.store.containers.zarr:ZarrContainer",
        "parquet": "logitstore.store.containers.parquet:ParquetContainer",
    }
)
