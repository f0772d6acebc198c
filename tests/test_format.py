"""docs/format.md suffices: stores are decoded here from that page, without logitstore's reader."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from safetensors.torch import load_file

from logitstore.store.containers import CONTAINERS
from tests.hidden_stores import corpus_of, dumped
from tests.synthetic import store_spec, stored_documents, write_store

UNITS = [stored_documents([30, 60, 12, 50], masked=True), stored_documents([64] * 3, seed=10)]


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


def _zarr_blocks(folder: Path, commit: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Integer columns of each block, by zarr and numpy alone."""
    group = zarr.open_group(folder, mode="r")
    ranking = _planes(group["ranking"])["id"]
    blocks = []
    for number, counts in enumerate(commit["blocks"]):
        columns: dict[str, np.ndarray] = {"ranking": ranking}
        for name, length, axis in (
            ("entries", counts["targets"], 1),
            ("scalars", counts["targets"], 1),
            ("tokens", counts["tokens"], 1),
            ("states", counts["targets"], 1),
        ):
            if name not in group:
                continue
            start = number * group[name].chunks[axis]
            shown = {"tokens": "tokens.", "states": "state_"}.get(name, "")
            for column, values in _planes(group[name]).items():
                columns[f"{shown}{column}"] = values[start : start + length]
        start = number * group["documents"].chunks[0]
        columns["documents"] = group["documents"][start : start + counts["documents"]]
        blocks.append(columns)
    return blocks


def _planes(array: Any) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for plane, values in zip(array.attrs["planes"], array[...], strict=True):
        name, _, byte = plane.partition(".")
        columns[name] = columns.get(name, 0) + values.astype(np.int64) * 256 ** int(byte or 0)
    return columns


def _parquet_blocks(folder: Path, commit: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Integer columns of each block, by pyarrow alone."""
    file = pq.ParquetFile(folder / "documents.parquet", page_checksum_verification=True)
    ranking = pq.read_table(folder / "ranking.parquet")["id"].to_numpy().astype(np.int64)
    blocks = []
    for number in range(len(commit["blocks"])):
        table = file.read_row_group(number)
        columns: dict[str, np.ndarray] = {"ranking": ranking}
        for name in table.column_names:
            if name in ("id", "record", "piece", "tokens", "targets"):
                continue
            flat = [value for row in table[name].to_pylist() for value in row]
            columns[name] = np.array(flat, dtype=np.int64)
        columns["tokens.id"] = columns.pop("input_ids")
        columns["tokens.counted"] = columns.pop("counted")
        columns["id_delta"] = columns.pop("id_deltas").reshape(len(columns["floor"]), -1)
        columns["code"] = columns.pop("codes").reshape(len(columns["floor"]), -1)
        for name in [one for one in columns if one.startswith("state_")]:
            columns[name] = columns[name].reshape(len(columns["floor"]), -1)
        halves = [
            (int.from_bytes(one[:8], "big"), int.from_bytes(one[8:], "big"))
            for one in table["id"].to_pylist()
        ]
        rest = [table[name].to_pylist() for name in ("record", "piece", "tokens", "targets")]
        rows = [(*half, *row) for half, row in zip(halves, zip(*rest, strict=True), strict=True)]
        columns["documents"] = np.array(rows, dtype=np.uint64)
        blocks.append(columns)
    return blocks


READERS = {"zarr": _zarr_blocks, "parquet": _parquet_blocks}


def _decode(spec: dict[str, Any], columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The targets of a block as the page describes them, row by row."""
    steps = spec["codec"]["parameters"]
    vocab_size = spec["tokenizer"]["vocab_size"]
    rows = []
    for row in range(len(columns["floor"])):
        used = slice(0, int(columns["count"][row]))
        ids = columns["ranking"][np.cumsum(columns["id_delta"][row, used])]
        floor = -columns["floor"][row] / steps["floor_steps"]
        codes = columns["code"][row, used].tolist()
        below = [_level(max(codes) - code, steps) for code in codes]
        logprobs = floor + max(below) - np.array(below)
        nodes = spec["sparsifier"]["tail_nodes"]
        tails = _tails(columns, row, nodes, steps=steps, left=vocab_size - len(codes))
        rows.append(
            {
                "entries": dict(zip(ids.tolist(), logprobs.tolist(), strict=True)),
                "tails": tails,
                "label": -columns["label_logprob"][row] / steps["scalar_steps"],
                "entropy": columns["entropy"][row] / steps["scalar_steps"],
            }
        )
    return rows


def _level(number: int, steps: dict[str, int]) -> float:
    turn = 4 * (steps["value_steps"] - steps["least_steps"])
    fine = -4 * math.log(1 - min(number, turn) / (4 * steps["value_steps"]))
    return fine + max(number - turn, 0) / steps["least_steps"]


def _tails(
    columns: dict[str, np.ndarray],
    row: int,
    nodes: list[float],
    *,
    steps: dict[str, int],
    left: int,
) -> list[float]:
    tails: list[float] = []
    for n, b in enumerate(nodes):
        zigzag = int(columns[f"tail_{n}"][row]) - 1
        off = zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
        known = [(0.0, math.log(left)), *list(zip(nodes, tails, strict=False))[-4:]]
        at, values = np.array(known).T
        predicted = np.polyval(np.polyfit(at, values, len(at) - 1), b) if n else 0.0
        tails.append(float(predicted) + off / steps["tail_steps"])
    return tails


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_a_store_is_decoded_from_the_page(container: str, tmp_path: Path) -> None:
    if container not in READERS:
        pytest.skip("docs/format.md does not describe it, so nothing here reads it by that page")
    write_store(tmp_path, UNITS, spec=store_spec(container=container))
    spec = _load(tmp_path / "store.json")
    blocks = []
    for unit in _load(tmp_path / "plan.json")["units"]:
        commit = _load(tmp_path / "commits" / f"{unit['name']}.json")
        folder = tmp_path / "data" / f"{commit['unit']}-{commit['attempt']}"
        blocks += READERS[container](folder, commit)
    rows = [row for columns in blocks for row in _decode(spec, columns)]
    wanted = [stored for unit in UNITS for stored in unit]
    tokens = np.concatenate([columns["tokens.id"] for columns in blocks])
    counted = np.concatenate([columns["tokens.counted"] for columns in blocks])
    documents = np.concatenate([columns["documents"] for columns in blocks])
    assert tokens.tolist() == [t for one in wanted for t in one.document.input_ids_L]
    assert counted.tolist() == [c for one in wanted for c in one.document.counted_L]
    assert documents[:, 4].tolist() == [len(one.document) for one in wanted]
    identities = [
        int(high).to_bytes(8, "big") + int(low).to_bytes(8, "big") for high, low in documents[:, :2]
    ]
    assert identities == [one.document.id for one in wanted]
    targets = [(one.targets, row) for one in wanted for row in range(len(one.targets))]
    assert len(rows) == len(targets)
    for found, (target, row) in zip(rows, targets, strict=True):
        assert set(found["entries"]) == set(target.ids_RK[row].tolist())
        for one, logprob in zip(target.ids_RK[row], target.logprobs_RK[row], strict=True):
            assert found["entries"][int(one)] == pytest.approx(float(logprob), abs=0.15)
        head = np.array([*found["entries"].values()])
        for b, tail, wanted_tail in zip(
            spec["sparsifier"]["tail_nodes"],
            found["tails"],
            target.tail_logmass_RB[row],
            strict=True,
        ):
            odds = wanted_tail - np.log(np.exp(b * target.logprobs_RK[row]).sum())
            assert tail - np.log(np.exp(b * head).sum()) == pytest.approx(odds, abs=2e-3)
        assert found["label"] == pytest.approx(float(target.label_logprob_R[row]), abs=3e-3)
        assert found["entropy"] == pytest.approx(float(target.entropy_R[row]), abs=3e-3)


@pytest.mark.parametrize("container", sorted(READERS))
def test_a_samplers_log_probabilities_are_decoded_from_the_page(
    container: str, tmp_path: Path
) -> None:
    drawn = [
        replace(one, document=replace(one.document, sampler_logprobs_R=_drawn(one)))
        for one in UNITS[0]
    ]
    spec = store_spec(container=container)
    spec = replace(spec, text=replace(spec.text, sampler_logprobs=True))
    write_store(tmp_path, [drawn], spec=spec)
    stored = _load(tmp_path / "store.json")
    assert stored["text"]["sampler_logprobs"] is True
    (path,) = (tmp_path / "commits").glob("*.json")
    commit = _load(path)
    folder = tmp_path / "data" / f"{commit['unit']}-{commit['attempt']}"
    blocks = READERS[container](folder, commit)
    found = np.concatenate([columns["sampler_logprob"] for columns in blocks])
    steps = stored["codec"]["parameters"]["scalar_steps"]
    wanted = np.concatenate([one.document.sampler_logprobs_R for one in drawn])
    np.testing.assert_allclose(-found / steps, wanted, atol=0.5 / steps)


@pytest.mark.parametrize("container", sorted(READERS))
def test_hidden_states_and_their_layer_are_decoded_from_the_page(
    container: str, teacher_folder: Path, tmp_path: Path
) -> None:
    corpus = corpus_of(tmp_path, times=1)
    store = dumped(
        tmp_path / "store",
        teacher_folder,
        corpus,
        format=container,
        fidelity="compact",
        positions="entropy:top:0.5",
    )
    spec = _load(tmp_path / "store" / "store.json")
    assert (spec["format"], spec["text"]["positions"]) == ("logitstore/5", "entropy:top:0.5")
    states, head = spec["states"], spec["states"]["head"]
    bits = []
    for unit in _load(tmp_path / "store" / "plan.json")["units"]:
        commit = _load(tmp_path / "store" / "commits" / f"{unit['name']}.json")
        folder = tmp_path / "store" / "data" / f"{commit['unit']}-{commit['attempt']}"
        bits += [columns["state_last"] for columns in READERS[container](folder, commit)]
    assert states["dtype"] == "bfloat16"  # whose bits are the first 16 of a float32
    state_RW = (np.concatenate(bits).astype(np.uint32) << 16).view(np.float32)
    assert state_RW.shape == (sum(len(one.targets) for one in store), states["width"])

    path = tmp_path / "store" / "head" / "head.safetensors"
    data = path.read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (head["size"], head["sha256"])
    manifest = _load(tmp_path / "store" / "manifest.json")
    assert manifest["objects"]["head/head.safetensors"] == head["sha256"]
    tensors = load_file(path)
    assert set(tensors) == {"weight"} | ({"bias"} if head["bias"] else set())
    z_RV = state_RW @ tensors["weight"].float().numpy().T * head["scale"]
    if head["softcap"] is not None:
        z_RV = head["softcap"] * np.tanh(z_RV / head["softcap"])
    wanted_RV = z_RV - np.logaddexp.reduce(z_RV, axis=1, keepdims=True)
    found = [log_RV for one in store for log_RV in store.log_probs(one)]
    np.testing.assert_allclose(np.concatenate(found), wanted_RV, atol=2e-5)
    top_RK = np.sort(np.argsort(-wanted_RV, axis=1)[:, : spec["sparsifier"]["k"]], axis=1)
    ids_RK = np.concatenate([one.targets.ids_RK for one in store])
    np.testing.assert_array_equal(np.sort(ids_RK, axis=1), top_RK)


def _drawn(stored: Any) -> np.ndarray:
    return -np.linspace(0, 30, len(stored.targets), dtype=np.float32)


def test_the_fingerprint_is_made_as_the_page_says(tmp_path: Path) -> None:
    write_store(tmp_path, UNITS, spec=store_spec())
    for path in [*tmp_path.glob("[sp]*.json"), *tmp_path.glob("commits/*")]:
        content = _load(path)
        checked = content.pop("sha256")
        text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False)
        assert checked == hashlib.sha256((text + "\n").encode()).hexdigest()
    spec = _load(tmp_path / "store.json")
    del spec["provenance"], spec["teacher"]["name"], spec["sha256"]
    units = []
    for path in sorted((tmp_path / "commits").glob("*.json")):
        commit = _load(path)
        objects = {one["path"]: one["sha256"] for one in commit["objects"]}
        units.append({"unit": commit["unit"], "objects": objects, "skipped": commit["skipped"]})
    text = json.dumps({"spec": spec, "units": units}, sort_keys=True, indent=2, ensure_ascii=False)
    digest = hashlib.sha256((text + "\n").encode()).hexdigest()
    assert _load(tmp_path / "manifest.json")["fingerprint"] == digest
