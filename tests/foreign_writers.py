"""Files of other systems, written from the descriptions of their layouts in docs/exchange.md.

The writers share no code with the importers. What they were given is what an import must find.

Shapes: L tokens of a document, R rows, K entries, V vocabulary.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import tarfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zstandard

VOCAB = 300
K = 6


@dataclass(frozen=True, kw_only=True)
class Text:
    """Tokens, and the teacher's log-probabilities of each token behind the first."""

    tokens: list[int]
    logp_RV: np.ndarray  # row r is of token r + 1

    @property
    def top(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and log-probabilities of the K most probable tokens of each row."""
        ids_RK = np.argsort(-self.logp_RV, axis=1, kind="stable")[:, :K]
        return ids_RK, np.take_along_axis(self.logp_RV, ids_RK, axis=1)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an import must find of a document: its tokens, and by position a row."""

    tokens: list[int]
    rows: dict[int, dict[int, float]]  # position of the token -> id -> log-probability


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file, how it is imported, and what must come of it."""

    source: Path
    options: dict[str, Any]
    expected: list[Expected]
    shares: bool = False
    tolerance: float = 0.012  # nats: half a value step, and the shift that keeps a row's mass
    whole: bool = field(default=False)


def texts(seed: int = 0) -> list[Text]:
    """Three short texts, whose tokens are drawn from the teacher's own distributions."""
    generator = np.random.default_rng(seed)
    found = []
    for length in (24, 15, 20):
        logits_RV = generator.normal(size=(length - 1, VOCAB)) * 2.5
        logp_RV = logits_RV - np.log(np.exp(logits_RV).sum(axis=1, keepdims=True))
        drawn = [int(generator.choice(VOCAB, p=np.exp(row))) for row in logp_RV]
        found.append(Text(tokens=[int(generator.integers(VOCAB)), *drawn], logp_RV=logp_RV))
    return found


def rows_of(text: Text, *, last: int | None = None, of: Any = float) -> dict[int, dict[int, float]]:
    """The top k of each row by position, but for the rows from `last` on."""
    ids_RK, logp_RK = text.top
    return {
        row + 1: {int(i): float(of(v)) for i, v in zip(ids_RK[row], logp_RK[row], strict=True)}
        for row in range(len(ids_RK) if last is None else last)
    }


def distillkit(folder: Path) -> Case:
    """Plain columns: as many rows as tokens, the last of which predicts a token that was cut."""
    made = texts()
    table = pa.table(
        {
            "input_ids": [one.tokens[:-1] for one in made],
            "token_ids": [one.top[0].tolist() for one in made],
            "top_values": [one.top[1].tolist() for one in made],
        }
    )
    pq.write_table(table, folder / "data_0.parquet")
    expected = [
        Expected(tokens=one.tokens[:-1], rows=rows_of(one, last=len(one.tokens) - 2))
        for one in made
    ]
    return Case(source=folder, options={"from_": "distillkit"}, expected=expected)


def packed_row(ids: list[int], values: list[float], *, bits: int) -> tuple[list[int], list[int]]:
    """Bytes of values as float32, and of ids as bits, most significant first."""
    stream = "".join(format(one, f"0{bits}b") for one in ids)
    stream += "0" * (-len(stream) % 8)
    packed = [int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)]
    return list(struct.pack(f"<{len(values)}f", *values)), packed


def distillkit_packed(folder: Path) -> Case:
    """Today's codec with every value exact, two documents packed into one record."""
    made = texts(1)
    rows = [
        packed_row([*map(int, i)], [*map(float, v)], bits=9)
        for one in made[:2]
        for i, v in zip(*one.top, strict=True)
    ]
    lengths = [len(one.tokens) - 1 for one in made[:2]]
    table = pa.table(
        {
            "input_ids": [[token for one in made[:2] for token in one.tokens[:-1]]],
            "compressed_logprobs": pa.array([[values for values, _ in rows]]),
            "bytepacked_indices": pa.array([[ids for _, ids in rows]]),
            "attention_mask": [[1] * lengths[0] + [2] * lengths[1]],
        }
    )
    pq.write_table(table, folder / "data_0.parquet")
    (folder / "compression_config.yaml").write_text(
        f"d: 301\nk: {K}\nexact_k: {K}\nexact_dtype: float32\npolynomial_terms: []\n"
        "term_dtype: float32\nresidual_bins: []\ndelta_encoding: false\n"
        "error_diffusion: false\nnormalize_t: false\n"
    )
    expected = [
        Expected(tokens=one.tokens[:-1], rows=rows_of(one, last=len(one.tokens) - 2))
        for one in made[:2]
    ]
    return Case(source=folder, options={"from_": "distillkit"}, expected=expected)


def distillkit_centred(folder: Path, *, centred: bool = True) -> Case:
    """The legacy layout: ids in 64-bit words, and logits less their mean where `centred`."""
    made = texts(2)
    bits, in_word = 9, 64 // 9
    packed, exact = [], []
    for one in made:
        ids_RK, logp_RK = one.top
        packed.append(
            [
                [
                    sum(int(i) << (bits * at) for at, i in enumerate(ids[start : start + in_word]))
                    for start in range(0, K, in_word)
                ]
                for ids in ids_RK
            ]
        )
        means_R = one.logp_RV.mean(axis=1) if centred else np.zeros(len(ids_RK))
        exact.append((logp_RK - means_R[:, None]).astype(np.float32).tolist())
    table = pa.table(
        {
            "input_ids": [one.tokens for one in made],
            "packed_indices": pa.array(packed, pa.list_(pa.list_(pa.uint64()))),
            "exact_values": pa.array(exact, pa.list_(pa.list_(pa.float32()))),
            "coeffs": [[[0.0]] * (len(one.tokens) - 1) for one in made],
        }
    )
    pq.write_table(table, folder / "data_0.parquet")
    config = folder / "legacy.yaml"
    config.write_text(f"k: {K}\nexact_k: {K}\npolynomial_degree: 0\nvocab_size: 300\n")
    return Case(
        source=folder,
        options={"from_": "distillkit", "config": config},
        expected=[Expected(tokens=one.tokens, rows=rows_of(one)) for one in made],
        shares=centred,
    )


def _payload(samples: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """One microbatch: [S, B, K] of ids and float16 values."""
    ids_SBK = np.stack([ids for ids, _ in samples], axis=1)
    values_SBK = np.stack([values for _, values in samples], axis=1)
    content = {
        "values": [torch.from_numpy(values_SBK).half()],
        "indices_low": [torch.from_numpy((ids_SBK % 65536).astype(np.uint16))],
        "bit_17": [torch.from_numpy(ids_SBK >= 65536)],
    }
    data = BytesIO()
    torch.save(content, data)
    return zstandard.ZstdCompressor(level=3).compress(data.getvalue())


def _tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))


def megatron(folder: Path, *, contexts: int = 2) -> Case:
    """Two iterations of two data ranks and context ranks; the last place of each row is unused."""
    length = 12
    made = [text for seed in range(2) for text in texts(seed)][:4]
    for context in range(contexts):
        for data in range(2):
            members = {"_meta.json": b"{}"}
            for iteration in range(2):
                ids_SK, values_SK = made[2 * iteration + data].top
                ids_SK, values_SK = ids_SK[:length].copy(), values_SK[:length].copy()
                ids_SK[:, -1], values_SK[:, -1] = 131071, -1000.0
                chunks = np.split(np.arange(length), 2 * contexts)
                own = np.concatenate((chunks[context], chunks[2 * contexts - 1 - context]))
                members[f"{iteration}.pt.zst"] = _payload([(ids_SK[own], values_SK[own])])
            _tar(folder / f"cp{context}_dp{data}__1.tar", members)
    tokens = folder / "tokens.jsonl"
    lines = [json.dumps({"input_ids": one.tokens[: length + 1]}) for one in made]
    tokens.write_text("\n".join(lines) + "\n")
    expected = [
        Expected(
            tokens=one.tokens[: length + 1],
            rows={
                position: dict(list(row.items())[:-1])
                for position, row in rows_of(one, last=length, of=np.float16).items()
            },
        )
        for one in made
    ]
    options = {"from_": "megatron", "tokens": tokens}
    return Case(source=folder, options=options, expected=expected)


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _message(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def tf_example(features: dict[str, Any]) -> bytes:
    """A tf.train.Example, by its wire format."""
    out = b""
    for name, values in features.items():
        if isinstance(values, bytes):
            feature = _message(1, _message(1, values))
        elif isinstance(values[0], float):
            feature = _message(2, _message(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            feature = _message(3, _message(1, b"".join(map(_varint, values))))
        out += _message(1, _message(1, name.encode()) + _message(2, feature))
    return _message(1, out)


def array_record(path: Path, records: list[bytes]) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for one in records:
        writer.write(one)
    writer.close()


def maxtext(folder: Path) -> Case:
    """Two documents packed into one sequence with padding: raw logits of the top k."""
    made = texts(3)[:2]
    tokens = [token for one in made for token in one.tokens] + [0, 0, 0]
    segments = [number for number, one in enumerate(made, 1) for _ in one.tokens] + [0, 0, 0]
    logits, ids = np.full((len(tokens), K), -1.0), np.zeros((len(tokens), K), dtype=int)
    ids[:] = np.arange(K)
    start = 0
    for one in made:
        ids_RK, logp_RK = one.top
        ids[start : start + len(ids_RK)] = ids_RK
        logits[start : start + len(ids_RK)] = logp_RK + 7.5  # no normaliser
        start += len(one.tokens)
    record = tf_example(
        {
            "inputs": tokens,
            "targets": [*tokens[1:], 0],
            "inputs_segmentation": segments,
            "targets_segmentation": [*segments[1:], 0],
            "top_k_logits": [float(one) for one in logits.ravel()],
            "top_k_indices": [int(one) for one in ids.ravel()],
            "sequence_hash": [-(1 << 61)],
            "note": b"bytes are passed over",
        }
    )
    array_record(folder / "teacher_top_k_part_00000_host_000.array_record", [record])
    expected = [Expected(tokens=one.tokens, rows=rows_of(one)) for one in made]
    return Case(source=folder, options={"from_": "maxtext"}, expected=expected, shares=True)


def maxtext_batches(folder: Path) -> Case:
    """A batch of safetensors, the layout before; the tokens alone, and no padding."""
    from safetensors.numpy import save

    made, length = texts(4), 15
    ids_BTK, logits_BTK = (
        np.zeros((len(made), length, K), dtype=kind) for kind in (np.int32, np.float32)
    )
    for row, one in enumerate(made):
        count = min(length, len(one.tokens) - 1)
        ids_BTK[row] = np.arange(K)
        ids_BTK[row, :count], logits_BTK[row, :count] = (part[:count] for part in one.top)
    batch = {
        "tokens": np.array([one.tokens[:length] for one in made], dtype=np.int32),
        "top_k_logits": logits_BTK,
        "top_k_indices": ids_BTK,
    }
    array_record(folder / "teacher_top_k_part_00000.array_record", [save(batch)])
    expected = [
        Expected(tokens=one.tokens[:length], rows=rows_of(one, last=length - 1)) for one in made
    ]
    return Case(source=folder, options={"from_": "maxtext"}, expected=expected, shares=True)


def llamacpp(folder: Path, *, context: int = 14) -> Case:
    """Whole rows of codes of 16 bits; only the second half of a chunk has rows."""
    made = texts(5)
    data = b"_logits_" + struct.pack("<3i", context, VOCAB, len(made))
    data += b"".join(struct.pack(f"<{context}i", *one.tokens[:context]) for one in made)
    expected = []
    for one in made:
        first = context // 2
        for row in one.logp_RV[first : context - 1]:
            least = max(row.min(), row.max() - 16)
            scale = (row.max() - least) / 65535
            codes = np.rint((np.maximum(row, least) - least) / scale).astype(np.uint16)
            data += struct.pack("<2f", scale, least) + codes.tobytes()
        rows = {at: row for at, row in rows_of(one, last=context - 1).items() if at > first}
        expected.append(Expected(tokens=one.tokens[:context], rows=rows))
    path = folder / "base.kld"
    path.write_bytes(data)
    options = {"from_": "llamacpp", "bos": "none", "sparsify": "topk", "k": K}
    return Case(source=path, options=options, expected=expected, whole=True)


def _response(choice: dict[str, Any], **top: Any) -> str:
    return json.dumps({"object": "x", "choices": [{"index": 0, **choice}], **top}) + "\n"


def vllm(folder: Path) -> Case:
    """prompt_logprobs: the prompt's own token first, then the top k; one is minus infinity."""
    made = texts(6)
    lines, expected = [], []
    for one in made:
        rows: list[Any] = [None]
        for position, row in rows_of(one).items():
            own = one.tokens[position]
            entries = {own: float(one.logp_RV[position - 1, own])} | row
            rows.append({str(i): {"logprob": v, "rank": 1} for i, v in entries.items()})
        rows[1] |= {
            str(next(i for i in range(VOCAB) if str(i) not in rows[1])): {"logprob": -9999.0}
        }
        lines.append(_response({"prompt_logprobs": rows, "prompt_token_ids": one.tokens}))
        wanted = {
            at: row | {one.tokens[at]: float(one.logp_RV[at - 1, one.tokens[at]])}
            for at, row in rows_of(one).items()
        }
        expected.append(Expected(tokens=one.tokens, rows=wanted))
    path = folder / "responses.jsonl"
    path.write_text("".join(lines))
    return Case(source=path, options={"from_": "vllm"}, expected=expected)


def vllm_echo(folder: Path, *, named: bool = True) -> Case:
    """completions with echo: entries by "token_id:N", or by their text, which may collide."""
    made = texts(7)
    lines, expected = [], []
    for one in made:
        tops: list[Any] = [None]
        own: list[Any] = [None]
        for position, row in rows_of(one).items():
            own.append(float(one.logp_RV[position - 1, one.tokens[position]]))
            tops.append({f"token_id:{i}" if named else f"t{i % 7}": v for i, v in row.items()})
        names = [f"token_id:{i}" if named else f"t{i % 7}" for i in one.tokens]
        lines.append(
            _response({"logprobs": {"tokens": names, "token_logprobs": own, "top_logprobs": tops}})
        )
        wanted = {
            at: row | {one.tokens[at]: float(one.logp_RV[at - 1, one.tokens[at]])}
            for at, row in rows_of(one).items()
        }
        expected.append(Expected(tokens=one.tokens, rows=wanted))
    path = folder / "echo.jsonl"
    path.write_text("".join(lines))
    return Case(source=path, options={"from_": "vllm"}, expected=expected)


def openai(folder: Path, token_bytes: dict[int, bytes]) -> Case:
    """Chat completions by the bytes of tokens; the prompts' ids are given beside them."""
    made, prompt = texts(8), 5
    lines, prompts, expected = [], [], []
    for one in made:
        content = []
        for position, row in list(rows_of(one).items())[prompt - 1 :]:
            own = one.tokens[position]
            content.append(
                _entry(own, float(one.logp_RV[position - 1, own]), token_bytes)
                | {"top_logprobs": [_entry(i, v, token_bytes) for i, v in row.items()]}
            )
        lines.append(_response({"logprobs": {"content": content}}))
        prompts.append(json.dumps({"input_ids": one.tokens[:prompt]}) + "\n")
        wanted = {
            at: row | {one.tokens[at]: float(one.logp_RV[at - 1, one.tokens[at]])}
            for at, row in rows_of(one).items()
            if at >= prompt
        }
        expected.append(Expected(tokens=one.tokens, rows=wanted))
    (folder / "chat.jsonl").write_text("".join(lines))
    (folder / "prompts.jsonl").write_text("".join(prompts))
    options = {"from_": "openai", "tokens": folder / "prompts.jsonl"}
    return Case(source=folder / "chat.jsonl", options=options, expected=expected)


def _entry(number: int, logprob: float, token_bytes: dict[int, bytes]) -> dict[str, Any]:
    data = token_bytes[number]
    return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": [*data]}


def axolotl(folder: Path, *, alignment: str = "next") -> Case:
    """Prepared: renormalised over the k kept, at the place before the token or at its own."""
    made, answer = texts(9), 8
    columns: dict[str, list[Any]] = {
        name: [] for name in ("input_ids", "target_token_ids", "target_logprobs", "target_mask")
    }
    expected = []
    for one in made:
        rows = {at: row for at, row in rows_of(one).items() if at >= answer}
        step = 1 if alignment == "next" else 0
        ids, values, mask = [], [], []
        for place in range(len(one.tokens)):
            row = rows.get(place + step)
            ids.append(list(range(K)) if row is None else list(row))
            mass = 0.0 if row is None else math.log(sum(map(math.exp, row.values())))
            values.append([-math.inf] * K if row is None else [v - mass for v in row.values()])
            mask.append([int(row is not None)] * K)
        for name, value in zip(columns, (one.tokens, ids, values, mask), strict=True):
            columns[name].append(value)
        expected.append(Expected(tokens=one.tokens, rows=rows))
    pq.write_table(pa.table(columns), folder / "train.parquet")
    options = {"from_": "axolotl", "alignment": alignment}
    return Case(source=folder, options=options, expected=expected, shares=True)


def axolotl_raw(folder: Path, *, legacy: bool = False) -> Case:
    """A row for each token of the answer; ids and answers are told beside it."""
    made, answer = texts(10), 8
    rows = [[row for at, row in rows_of(one).items() if at >= answer] for one in made]
    if legacy:
        column = [
            [
                [{"token": f"token_id:{i}", "logprob": v, "bytes": None} for i, v in row.items()]
                for row in some
            ]
            for some in rows
        ]
        table = pa.table({"llm_text_generation_vllm_logprobs": column})
    else:
        table = pa.table(
            {
                "logprobs": [[list(row.values()) for row in some] for some in rows],
                "target_token_ids": [[list(row) for row in some] for some in rows],
            }
        )
    pq.write_table(table, folder / "raw.parquet")
    tokens = pa.table(
        {
            "input_ids": [one.tokens for one in made],
            "counted": [[int(at >= answer) for at in range(len(one.tokens))] for one in made],
        }
    )
    pq.write_table(tokens, folder / "tokens_of.parquet")
    expected = [
        Expected(
            tokens=one.tokens, rows={at: row for at, row in rows_of(one).items() if at >= answer}
        )
        for one in made
    ]
    options = {"from_": "axolotl", "tokens": folder / "tokens_of.parquet"}
    return Case(source=folder / "raw.parquet", options=options, expected=expected)


def pickled(folder: Path) -> Case:
    """What MaxText wrote for two months in spring 2026."""
    array_record(folder / "old.array_record", [pickle.dumps({"tokens": [1, 2, 3]})])
    return Case(source=folder, options={"from_": "maxtext"}, expected=[])


WRITERS = {
    one.__name__: one
    for one in (
        distillkit,
        distillkit_packed,
        distillkit_centred,
        megatron,
        maxtext,
        maxtext_batches,
        llamacpp,
        vllm,
        vllm_echo,
        axolotl,
        axolotl_raw,
    )
}
