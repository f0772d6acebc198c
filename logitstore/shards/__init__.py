"""Containers: how a shard's columns lie in files. `CONTAINERS` lists the ones there are."""

from logitstore.shards.base import Container, ShardReader
from logitstore.shards.parquet import ParquetContainer
from logitstore.shards.zarr import ZarrContainer

__all__ = ["CONTAINERS", "Container", "ShardReader"]

CONTAINERS: dict[str, Container] = {"zarr": ZarrContainer(), "parquet": ParquetContainer()}
