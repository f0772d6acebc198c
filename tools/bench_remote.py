"""Reading a store far away: requests and bytes, and how long training waits for its batches.

    python -m tools.bench_remote [--records 400] [--block-targets 512] [--steps 60] [--step 0.05]
                                 [--waits 0,30,100]

A store lies on a real S3 server of this machine (moto), before which a proxy lets each request
wait. Batches of 512 tokens are taken as training on an accelerator takes them: a step is a wait of
50 ms that leaves the processor free. Idle is the share of the time that is spent waiting for the
next batch, the first one left out. Blocks have 512 targets instead of 65,536, so that nearly each
step needs another one, which is decoded while the step waits; units have 8 blocks.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import logitstore
from logitstore.store import ahead
from logitstore.store.storage import FarStorage
from tools.fault_proxy import FaultProxy, fault_proxy
from tools.s3_server import ENVIRONMENT, make_bucket, s3_server
from tools.torture_store import CONTAINERS, make_scene, small_blocks
from trainer import training_batches

if TYPE_CHECKING:
    from collections.abc import Iterator


class Waited(NamedTuple):
    """How long one run took."""

    first: float  # seconds until the first batch
    idle: float  # share of the time behind it that was spent waiting


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--block-targets", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--step", type=float, default=0.05, help="seconds")
    parser.add_argument("--waits", default="0,30,100", help="milliseconds of each request")
    given = parser.parse_args()
    waits = [float(one) / 1000 for one in given.waits.split(",")]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, s3_server() as url, fault_proxy(url) as proxy:
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url})
        make_bucket(url, "bench-remote")
        stores = _dumped(Path(folder), records=given.records, block=given.block_targets)
        print(
            "\n| container | open | a unit | a block | bytes read / stored |\n|---|---|---|---|---|"
        )
        for container, uri in stores.items():
            print(f"| {container} | {_counted(proxy, uri)} |", flush=True)
        print(_head("container", "wait", "read", "first batch, s", "idle"))
        for container, uri in stores.items():
            for seconds in waits:
                for how in ("one by one", "ahead", "ahead, cached"):
                    proxy.rules({"on": ".", "seconds": seconds})
                    with _how(how, Path(folder) / container):
                        if "cached" in how:
                            _train(uri, steps=given.steps, seconds=given.step)
                        found = _train(uri, steps=given.steps, seconds=given.step)
                    print(
                        f"| {container} | {1000 * seconds:.0f} ms | {how} | {found.first:.2f} | "
                        f"{100 * found.idle:.1f} % |",
                        flush=True,
                    )


def _head(*names: str) -> str:
    return f"\n| {' | '.join(names)} |\n{'|---' * len(names)}|"


def _dumped(folder: Path, *, records: int, block: int) -> dict[str, str]:
    """Container -> URI of a store in it."""
    scene = make_scene(folder, records=records)
    stores = {}
    for container in CONTAINERS:
        stores[container] = f"s3://bench-remote/{container}"
        with small_blocks(block):
            logitstore.dump(
                teacher=scene.model,
                tokenizer=scene.tokenizer,
                data=str(scene.data),
                out=stores[container],
                format=container,
                sparsify="topk",
                k=64,
                unit_tokens=8 * block,
            )
    return stores


def _counted(proxy: FaultProxy, uri: str) -> str:
    """Requests to open the store, to open a unit and to read a block; bytes of a whole epoch."""
    proxy.rules()
    store = logitstore.open(uri)
    cells = [str(len(proxy.asked()))]
    proxy.rules()
    for unit in range(len(store.commits)):
        store.shards.of_unit(unit)
    cells.append(f"{len(proxy.asked()) / len(store.commits):.1f}")
    opening = proxy.bytes("data/")
    proxy.rules()
    for number in range(len(store.blocks)):
        store.read_block(number)
    cells.append(f"{len(proxy.asked()) / len(store.blocks):.1f}")
    stored = sum(one.size for commit in store.commits for one in commit.objects)
    return " | ".join([*cells, f"{(opening + proxy.bytes('data/')) / stored:.2f}"])


@contextmanager
def _how(how: str, folder: Path) -> Iterator[None]:
    environment = {"LOGITSTORE_CACHE": str(folder) if "cached" in how else ""}
    far = FarStorage if "ahead" in how else _Nobody
    with patch.dict(os.environ, environment), patch.object(ahead, "FarStorage", far):
        yield


class _Nobody:
    """No storage is one of these."""


def _train(uri: str, *, steps: int, seconds: float) -> Waited:
    """Take the batches of some steps of the store, opened anew."""
    store = logitstore.open(uri)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=304,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
        )
    )
    started = time.perf_counter()
    batches: Any = iter(training_batches(store, model=model, batch_tokens=1024, micro_tokens=512))
    next(batches)
    first = time.perf_counter() - started
    waited = 0.0
    for _ in range(steps):
        time.sleep(seconds)  # an accelerator works, and the processor is free
        began = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - began
    batches.close()
    return Waited(first, waited / (waited + steps * seconds))


if __name__ == "__main__":
    main()
