"""Stores and a run as version 0.1.0 wrote them: later versions read them, and write the same bytes.

The files of `golden/` are frozen; golden/README.md says what they are and how they were made.
"""

import hashlib
import json
import shutil
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import logitstore
from logitstore.codec import codec_for
from logitstore.errors import CorruptionError
from logitstore.sparsify import sparsifier_of
from logitstore.store.containers import load_container
from logitstore.store.verify import verify
from logitstore.targets.documents import DocumentBlock
from logitstore.targets.targets import none_sampled
from tests.forked import run

# --- Inside: all that this module knows of what is not public, and what it asks of the rest. When
# --- a name moves, adapt the functions up to the next such line, and nothing else.

# Of SparseTargets, apart from what tells exact entries from sampled ones.
FIELDS = ("ids_RK", "logprobs_RK", "count_R", "tail_logmass_RB", "label_logprob_R", "entropy_R")


class Encoded(NamedTuple):
    """A unit of work after the codec."""

    blocks: list[Any]
    tables: dict[str, np.ndarray]


def faults(folder: Path) -> list[str]:
    """Every fault of the store."""
    return list(verify(folder))


def decoded(folder: Path) -> dict[str, np.ndarray]:
    """All documents and all draws of the store, in the form of decoded.npz."""
    store = logitstore.open(folder)
    draws = [list(store.with_draw(draw)) for draw in range(store.spec.sparsifier.draw_count)]
    own = [stored.document for stored in draws[0]]
    arrays = {
        "id_D16": np.frombuffer(b"".join(one.id for one in own), dtype=np.uint8).reshape(-1, 16),
        "record_D": np.array([one.record for one in own]),
        "piece_D": np.array([one.piece for one in own]),
        "tokens_D": np.array([len(one) for one in own]),
        "input_ids_N": np.concatenate([one.input_ids_L for one in own]),
        "counted_N": np.concatenate([one.counted_L for one in own]),
    }
    for draw, stored in enumerate(draws):
        parts = [one.targets for one in stored]
        for name in FIELDS:
            arrays[f"draw{draw}.{name}"] = np.concatenate([getattr(one, name) for one in parts])
        arrays[f"draw{draw}.exact_RK"] = np.concatenate([one.exact_RK() for one in parts])
    for name in parts[0].states:
        bits = [one.states[name].bits_RD for one in parts]
        arrays[f"states.{name}"] = np.concatenate(bits)
    if "last" in parts[0].states:
        whole = [next(iter(store.log_probs(one))) for one in draws[0]]
        arrays["log_probs_RV"] = np.concatenate(whole)
    return arrays


def encode(folder: Path, documents: list["Stored"], cuts: list[int]) -> Encoded:
    """The documents of a unit as the codec of the store in `folder` makes them, cut into blocks."""
    spec = logitstore.open(folder).spec
    codec, kind = codec_for(spec), sparsifier_of(spec.sparsifier).targets
    stored = []
    for one in documents:
        draws = [
            logitstore.SparseTargets(
                **draw
                | {"kind": kind}
                | ({} if kind.drawn else {"sampled_RK": none_sampled(*draw["ids_RK"].shape)})
            )
            for draw in one.draws
        ]
        stored.append(
            logitstore.StoredDocument(
                document=logitstore.Document(**one.document),
                targets=draws[0],
                other_draws=tuple(draws[1:]),
            )
        )
    stops = np.cumsum(cuts)
    blocks = [
        DocumentBlock.join(stored[stop - cut : stop]) for cut, stop in zip(cuts, stops, strict=True)
    ]
    tables = codec.tables(blocks)
    return Encoded([codec.encode(block, tables) for block in blocks], tables)


def columns_of(unit: Encoded) -> dict[str, np.ndarray]:
    """The unit's integers, block after block, by their names in docs/format.md."""
    fields = {
        "tokens": "tokens_N",
        "counted": "counted_N",
        "documents": "documents_DC",
    }
    named = [
        {name: getattr(block, field) for name, field in fields.items()}
        | dict(block.entries)
        | dict(block.scalars)
        for block in unit.blocks
    ]
    joined = {name: np.concatenate([block[name] for block in named]) for name in named[0]}
    return joined | unit.tables


def write_shard(folder: Path, unit: Encoded, *, store: Path) -> None:
    """Lay the unit out in `folder` by the container and for the sparsifier of `store`."""
    spec = logitstore.open(store).spec
    objects = load_container(spec.container).write(
        unit.blocks,
        unit.tables,
        draw_count=spec.sparsifier.draw_count,
        by_entry=codec_for(spec).by_entry,
    )
    for name, data in dict(objects).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# --- What is recorded


GOLDEN = Path(__file__).parent / "golden"
FINGERPRINTS: dict[str, str] = json.loads((GOLDEN / "fingerprints.json").read_text())
STORES = sorted(FINGERPRINTS)
LOGARITHMS = ("logprobs_RK", "tail_logmass_RB")
# What the bytes of a shard depend on besides this project.
WRITERS = ("numcodecs", "numpy", "pyarrow", "zarr")


class Stored(NamedTuple):
    """A document of targets.npz: the fields of a Document, and of SparseTargets for each draw."""

    document: dict[str, Any]
    draws: list[dict[str, Any]]


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def spec_of(store: Path) -> dict[str, Any]:
    return json.loads((store / "store.json").read_text())


def commits(folder: Path) -> list[dict[str, Any]]:
    """The commits of the store's units that have a shard, in order."""
    found = [json.loads(path.read_text()) for path in sorted((folder / "commits").iterdir())]
    return [commit for commit in found if commit["attempt"] is not None]


def original_documents(case: Path) -> list[Stored]:
    arrays = load(case, "targets")
    tokens_D = arrays["tokens_D"]
    draws = [_draw(arrays, draw) for draw in range(sum("count_R" in name for name in arrays))]
    documents, start, row = [], 0, 0
    for place, length in enumerate(tokens_D):
        tokens = slice(start, start + length)
        rows = slice(row, row + int(arrays["counted_N"][tokens].sum()))
        document = {
            "id": arrays["id_D16"][place].tobytes(),
            "record": int(arrays["record_D"][place]),
            "piece": int(arrays["piece_D"][place]),
            "input_ids_L": arrays["input_ids_N"][tokens],
            "counted_L": arrays["counted_N"][tokens],
        }
        own = [
            {name: None if values is None else values[rows] for name, values in draw.items()}
            for draw in draws
        ]
        documents.append(Stored(document, own))
        start, row = tokens.stop, rows.stop
    return documents


def _draw(arrays: dict[str, np.ndarray], draw: int) -> dict[str, np.ndarray | None]:
    fields = {name: arrays[f"draw{draw}.{name}"] for name in FIELDS}
    used_RK = np.arange(fields["ids_RK"].shape[1]) < fields["count_R"][:, None]
    sampled_RK = used_RK & ~arrays[f"draw{draw}.exact_RK"]
    return fields | {"sampled_RK": sampled_RK if sampled_RK.any() else None}


def encoded_units(store: Path) -> dict[str, Encoded]:
    """Each unit of the store, encoded once more from its original targets."""
    documents, units = original_documents(store.parent), {}
    for commit in commits(store):
        cuts = [block["documents"] for block in commit["blocks"]]
        units[commit["unit"]] = encode(store, documents[: sum(cuts)], cuts)
        del documents[: sum(cuts)]
    assert not documents
    return units


@cache
def same_functions() -> bool:
    """Whether numpy has the exp, log and logaddexp here that it had where the record was made."""
    digest = hashlib.sha256()
    for kind in (np.float32, np.float64):
        x_N = (np.arange(-20_000, 20_001) / 1000).astype(kind)
        for values_N in (np.exp(x_N), np.log(np.exp2(x_N)), np.logaddexp(kind(0), x_N)):
            digest.update(values_N.tobytes())
    return digest.hexdigest() == json.loads((GOLDEN / "functions.json").read_text())["sha256"]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / request.param


# --- Tests


def test_every_sparsifier_and_container_is_there() -> None:
    specs = [spec_of(GOLDEN / one) for one in STORES]
    assert {spec["format"] for spec in specs} == {"logitstore/1"}
    assert {(spec["sparsifier"]["name"], spec["container"]) for spec in specs} == {
        (sparsifier, container)
        for sparsifier in ("hybrid", "sample", "topk", "topp", "unbiased")
        for container in ("parquet", "zarr")
    }


def test_a_store_is_sound_and_the_one_that_was_recorded(store: Path) -> None:
    assert faults(store) == []
    name = store.relative_to(GOLDEN).as_posix()
    assert logitstore.open(store).fingerprint == FINGERPRINTS[name]


def test_a_store_decodes_to_its_record_bit_by_bit(store: Path) -> None:
    """Weights of drawn targets go through exp and log, whose last bit is that of a machine."""
    found, wanted = decoded(store), load(store.parent, "decoded")
    drawn = spec_of(store)["sparsifier"]["name"] not in ("topk", "topp")
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype, name
        assert found[name].shape == values.shape, name
        if drawn and name.endswith(LOGARITHMS) and not same_functions():
            np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            assert found[name].tobytes() == values.tobytes(), name


def test_encoding_gives_the_recorded_columns(store: Path) -> None:
    found = {
        f"{unit}.{name}": values
        for unit, encoded in encoded_units(store).items()
        for name, values in columns_of(encoded).items()
    }
    wanted = load(store.parent, "columns")
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_bytes_are_frozen(store: Path, tmp_path: Path) -> None:
    """If this fails, give the codec a new id, not the test new bytes."""
    skip_with_other_writers()
    encoded = encoded_units(store)
    for commit in commits(store):
        folder = tmp_path / commit["unit"]
        write_shard(folder, encoded[commit["unit"]], store=store)
        found = {
            path.relative_to(folder).as_posix(): without_order(path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        shard = store / "data" / f"{commit['unit']}-{commit['attempt']}"
        assert found == {
            one["path"]: without_order(shard / one["path"]) for one in commit["objects"]
        }


def without_order(path: Path) -> str:
    """The hash of a file; of one of Zarr's that of its chunks in the order of its index.

    The index says where a chunk lies, so where that is may change from version to version.
    """
    data = path.read_bytes()
    metadata = (
        path.parents[path.parts[::-1].index("c")] / "zarr.json" if "c" in path.parts else None
    )
    if metadata is None or not metadata.is_file():
        return hashlib.sha256(data).hexdigest()
    content = json.loads(metadata.read_text())
    inner = content["codecs"][0]["configuration"]["chunk_shape"]
    count = int(np.prod(np.array(content["shape"]) // inner))
    entries = np.frombuffer(data[-16 * count - 4 : -4], dtype="<u8").reshape(-1, 2).tolist()
    assert sum(length for _, length in entries) == len(data) - 16 * count - 4
    return hashlib.sha256(b"".join(data[s : s + n] for s, n in entries)).hexdigest()


def skip_with_other_writers() -> None:
    """Compressors may change between versions: the bytes are those of constraints.txt."""
    lines = (GOLDEN.parent.parent / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    other = [f"{one} {version(one)}" for one in WRITERS if version(one) != pinned[one]]
    if other:
        pytest.skip(f"not the versions of constraints.txt: {', '.join(other)}")


@pytest.mark.parametrize("container", ["zarr", "parquet"])
@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_store_of_a_later_format_reads_as_before(number: int, container: str) -> None:
    golden = GOLDEN / f"format{number}"
    folder = golden / container
    wanted = json.loads((golden / "fingerprints.json").read_text())
    assert spec_of(folder)["format"] == f"logitstore/{number}"
    assert faults(folder) == []
    store = logitstore.open(folder)
    assert store.fingerprint == wanted[container]
    found = decoded(folder)
    for name, values in load(golden, "decoded").items():
        own = found.get(name, found.get(f"draw0.{name}"))
        assert own is not None
        np.testing.assert_allclose(own, values, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["head", "shares"])
def test_an_imported_store_reads_as_before(name: str) -> None:
    golden = GOLDEN / "imported"
    assert faults(golden / name) == []
    store = logitstore.open(golden / name)
    assert store.spec.sparsifier.name == name
    assert store.fingerprint == json.loads((golden / "fingerprints.json").read_text())[name]
    found, wanted = decoded(golden / name), load(golden, name)
    assert found.keys() == wanted.keys()
    for column, values in wanted.items():
        np.testing.assert_allclose(found[column], values, rtol=1e-6, atol=1e-6, err_msg=column)
    assert np.isnan(found["draw0.entropy_R"]).all()


@pytest.mark.parametrize(
    "change", [lambda data: data + b"\n", lambda data: data.replace(b",", b" ,", 1)]
)
def test_a_manifest_of_an_older_format_has_one_form(store: Path, tmp_path: Path, change) -> None:
    """It carries no hash of its own."""
    copy = shutil.copytree(store, tmp_path / "store")
    manifest = copy / "manifest.json"
    manifest.write_bytes(change(manifest.read_bytes()))
    with pytest.raises(CorruptionError, match="manifest has changed since it was written"):
        logitstore.open(copy)


def test_a_newer_format_is_refused_in_plain_words(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "format2" / "zarr", tmp_path / "store")
    spec = spec_of(tmp_path / "store") | {"format": "logitstore/99"}
    (tmp_path / "store" / "store.json").write_text(json.dumps(spec))
    with pytest.raises(CorruptionError, match=r"logitstore/99.*Install the version of logitstore"):
        logitstore.open(tmp_path / "store")


# In a process of its own: what other tests leave behind in this one, from the global state of
# accelerate to a warning about an object that was collected late, is none of this run's.
GO_ON = """
import json, sys, torch, trainer
torch.set_num_threads(1)
result = trainer.fit(
    **json.loads(sys.argv[1]),
    out=sys.argv[2],
    resume=True,
    report=lambda one: print(int(one["step"])),
)
assert result["finished"]
"""


def test_an_unfinished_run_goes_on_to_the_recorded_end(tmp_path: Path) -> None:
    """A run compares its settings as they were given: the student is named by a relative path.

    The store is named by its fingerprint, so it may lie anywhere.
    """
    shutil.copytree(GOLDEN / "run", tmp_path / "run")
    wanted = json.loads((GOLDEN / "finished_run.json").read_text())
    done = run("-c", GO_ON, json.dumps(wanted["settings"]), tmp_path / "run", cwd=GOLDEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "6", "7", "8"]  # the checkpoint is that of step 4
    assert done.stderr.count("written by an earlier version, without a hash of its own") == 1
    reports = json.loads((tmp_path / "run" / "history.json").read_text())
    assert len(reports) == len(wanted["reports"])
    for found, report in zip(reports, wanted["reports"], strict=True):
        # Kernels of different instruction sets were seen to differ by 1.5e-7 in a step, which the
        # next steps may magnify.
        assert {name: found[name] for name in report} == pytest.approx(report, rel=1e-5)
