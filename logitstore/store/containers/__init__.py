"""Containers: how a shard's columns lie in files. `CONTAINERS` lists the ones there are."""

from logitstore.store.containers.base import Container, ShardReader
from logitstore.store.containers.parquet import ParquetContainer
from logitstore.store.containers.zarr import ZarrContainer

__all__ = ["CONTAINERS", "Container", "ShardReader"]

CONTAINERS: dict[str, Container] = {"zarr": ZarrContainer(), "parquet": ParquetContainer()}
