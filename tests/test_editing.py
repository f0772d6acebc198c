"""Stores made of stores, each document of which is read before and after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import logitstore
from logitstore.cli.commands import app
from logitstore.codec import new_codec
from logitstore.editing import duplicates, planning
from logitstore.editing.selection import Choice, parse_span, parse_where
from logitstore.errors import (
    CorruptionError,
    SettingError,
    SpecError,
    StoreError,
)
from logitstore.format.edits import earlier_codecs, edits_of
from logitstore.sparsify.build import sparsifier_spec
from logitstore.store.layout import StoreLayout
from logitstore.store.reader import Store
from logitstore.store.verify import verify
from logitstore.targets.documents import StoredDocument
from tests.stored_values import assert_same_values, values_of
from tests.synthetic import store_spec, stored_documents, write_store
from tools.dict_storage import DictStorage

GOLDEN = Path(__file__).parent / "golden"
LENGTHS = [20, 30, 9, 15, 40, 33, 12, 28, 50, 8, 17, 21]


def _documents(**given: Any) -> list[StoredDocument]:
    """Documents of which about half of the tokens count, drawn with known probabilities."""
    found = []
    for one in stored_documents(LENGTHS, masked=True, **given):
        own_R = -np.arange(one.document.targets, dtype=np.float32) / 8
        document = replace(one.document, sampler_logprobs_R=own_R)
        found.append(replace(one, document=document))
    return found


def _units(documents: list[StoredDocument]) -> list[list[StoredDocument]]:
    return [documents[:4], [], documents[4:7], documents[7:]]


def _write(where: Any, *, container: str = "parquet", **changes: Any) -> Any:
    """A store of twelve documents in four units, one of them empty; where it lies."""
    spec = store_spec(container=container)
    spec = replace(spec, text=replace(spec.text, sampler_logprobs=True))
    write_store(where, _units(_documents()), spec=replace(spec, **changes))
    return where


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return _write(tmp_path / "store")


def _faults(where: Any) -> list[str]:
    return [str(fault) for fault in verify(where)]


def _hashes(store: Store) -> list[dict[str, str]]:
    return [{one.path: one.sha256 for one in commit.objects} for commit in store.commits]


# --- convert


def test_another_container_holds_the_same_and_the_way_back_gives_the_same_store(
    tmp_path: Path,
) -> None:
    source = logitstore.open(_write(tmp_path / "store", container="zarr"))
    there = logitstore.convert(source, tmp_path / "there", format="parquet")
    assert (there.copied_units, there.recoded_units) == (0, 4)
    assert _faults(tmp_path / "there") == []
    assert_same_values(values_of(logitstore.open(tmp_path / "there")), values_of(source))
    back = logitstore.convert(tmp_path / "there", tmp_path / "back", format="zarr")
    assert back.fingerprint == source.fingerprint
    assert _hashes(logitstore.open(tmp_path / "back")) == _hashes(source)


@pytest.mark.parametrize(
    ("options", "spec"),
    [
        ({"k": 3}, {"k": 3, "name": "topk"}),
        ({"fidelity": "exact"}, {"k": 8}),
        ({"fidelity": "compact", "k": 5, "format": "zarr"}, {"k": 5}),
    ],
)
def test_a_conversion_is_what_a_dump_of_its_settings_would_hold(
    store: Path, tmp_path: Path, options: dict[str, Any], spec: dict[str, Any]
) -> None:
    notes: list[str] = []
    logitstore.convert(store, tmp_path / "out", on_note=notes.append, **options)
    found = logitstore.open(tmp_path / "out")
    assert {name: getattr(found.spec.sparsifier, name) for name in spec} == spec
    assert _faults(found) == []
    assert any("rounded once more" in line for line in notes) == ("fidelity" in options)
    k = options.get("k", 8)
    # The same documents with k entries, from dense rows, which no codec has rounded yet.
    step = {"exact": 1 / 64, "compact": 1 / 2}.get(options.get("fidelity", ""), 1 / 4)
    for one, dense in zip(found, _documents(k=k), strict=True):
        assert np.array_equal(one.document.input_ids_L, dense.document.input_ids_L)
        tail_RB, own_RB = one.targets.tail_logmass_RB, dense.targets.tail_logmass_RB
        assert np.abs(tail_RB - own_RB).max() < 2 * step
        for row in range(len(dense.targets)):
            own = dict(zip(dense.targets.ids_RK[row], dense.targets.logprobs_RK[row], strict=True))
            least = min(own.values())
            for token, value in zip(
                one.targets.ids_RK[row], one.targets.logprobs_RK[row], strict=True
            ):
                assert abs(own.get(token, least) - value) < 1.5 * step + 1 / 4


def test_drawn_targets_give_their_heads_and_nothing_else(tmp_path: Path) -> None:
    for name, options in (("unbiased", {"k": 4}), ("sample", {"draws": 4}), ("hybrid", {"k": 4})):
        sparsifier = sparsifier_spec(name, **options)
        codec = new_codec(sparsifier, vocab_size=300).spec
        empty = replace(store_spec(), sparsifier=sparsifier, codec=codec)
        write_store(tmp_path / name, [[]], spec=empty)
        with pytest.raises(SettingError, match=r"cannot get fewer entries.*by sparsify topk"):
            logitstore.convert(tmp_path / name, tmp_path / "out", k=2)
        heads = "the store holds nothing" if name == "hybrid" else "keep no head with its tail"
        with pytest.raises((SettingError, StoreError), match=heads):
            logitstore.convert(tmp_path / name, tmp_path / "out", sparsify="topk")
    assert not (tmp_path / "out").exists()


def test_rows_that_may_be_short_become_no_others(tmp_path: Path) -> None:
    sparsifier = sparsifier_spec("topp", k=4, top_p=0.9)
    codec = new_codec(sparsifier, vocab_size=300).spec
    write_store(
        tmp_path / "topp", [[]], spec=replace(store_spec(), sparsifier=sparsifier, codec=codec)
    )
    with pytest.raises(SettingError, match=r"may have fewer entries.*topp to topk"):
        logitstore.convert(tmp_path / "topp", tmp_path / "out", sparsify="topk")


def test_what_an_import_lacked_is_told_of_all_that_is_made_of_it(tmp_path: Path) -> None:
    told = {"from": "openai", "lacks": ["the tail"]}
    for name in ("one", "two"):
        _write(tmp_path / name, provenance={"import": told | {"rows": len(name + name)}})
    _write(tmp_path / "dumped")
    for out, made in {
        "converted": lambda out: logitstore.convert(tmp_path / "one", out, fidelity="compact"),
        "cut": lambda out: logitstore.subset(tmp_path / "one", out, documents=":2"),
        "joined": lambda out: logitstore.merge(
            out, [tmp_path / "one", tmp_path / "two", tmp_path / "dumped"], duplicates="keep"
        ),
    }.items():
        made(tmp_path / out)
        assert logitstore.inspect(tmp_path / out)["imported"]["lacks"] == ["the tail"]


def test_earlier_roundings_are_told(tmp_path: Path) -> None:
    _write(tmp_path / "store")
    before = logitstore.open(tmp_path / "store").spec.codec
    logitstore.convert(tmp_path / "store", tmp_path / "finer", fidelity="exact")
    logitstore.subset(tmp_path / "finer", tmp_path / "cut", documents=":2")
    spec = logitstore.open(tmp_path / "cut").spec
    assert earlier_codecs(spec, place="cut") == [before]
    with pytest.raises(CorruptionError, match="the codecs are no list"):
        earlier_codecs(replace(spec, provenance={"rounded_before": 1}), place="cut")


@pytest.mark.parametrize("name", ["topk", "hybrid", "sample", "unbiased", "format2", "format3"])
def test_stores_of_older_versions_become_stores_of_this_one(name: str, tmp_path: Path) -> None:
    folders = sorted(one.parent for one in (GOLDEN / name).rglob("store.json"))
    source = logitstore.open(folders[0])
    edited = logitstore.convert(source, tmp_path / "out")
    found = logitstore.open(tmp_path / "out")
    assert found.spec.format == "logitstore/4"
    assert found.spec.codec.id == new_codec(found.spec.sparsifier, vocab_size=300).spec.id
    assert _faults(found) == []
    assert len(found) == len(source) == edited.documents
    if found.spec.codec == source.spec.codec:
        assert edited.recoded_units == 0
        assert_same_values(values_of(found), values_of(source))
    else:
        for one, two in zip(found, source, strict=True):
            mean = np.abs(one.targets.weights_RK.sum(1) - two.targets.weights_RK.sum(1)).mean()
            assert np.array_equal(np.sort(one.targets.ids_RK), np.sort(two.targets.ids_RK))
            assert mean < 2e-3


# --- subset and merge


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"documents": "3:8"}, lambda one: 3 <= one.document.record < 8),
        ({"documents": ":4"}, lambda one: one.document.record < 4),
        (
            {"where": "tokens >= 20 and not record == 8"},
            lambda one: len(one.document) >= 20 and one.document.record != 8,
        ),
        ({"where": "entropy > 3.2"}, lambda one: one.targets.entropy_R.mean() > 3.2),
        (
            {"where": "loss < 7 or sampler_loss >= 1"},
            lambda one: (
                -one.targets.label_logprob_R.mean() < 7
                or -one.document.sampler_logprobs_R.mean() >= 1
            ),
        ),
        (
            {"where": "retained_mass > 0.65", "documents": "2:"},
            lambda one: one.targets.weights_RK.sum(1).mean() > 0.65 and one.document.record >= 2,
        ),
    ],
    ids=lambda one: str(one) if isinstance(one, dict) else "",
)
def test_documents_are_chosen_by_what_the_store_holds_of_them(
    store: Path, choice: dict[str, Any], wanted: Callable[[StoredDocument], bool]
) -> None:
    source = logitstore.open(store)
    parsed = {
        name: parse_span(value) if name == "documents" else parse_where(value)
        for name, value in choice.items()
    }
    chosen_D = Choice(**parsed).of(source)
    assert chosen_D.tolist() == [bool(wanted(one)) for one in source]
    assert 0 < chosen_D.sum() < len(source)


def test_a_sample_depends_on_its_seed_and_takes_each_document_as_often(store: Path) -> None:
    source = logitstore.open(store)
    drawn = [Choice(sample=5, seed=seed).of(source) for seed in range(200)]
    assert all(one.sum() == 5 for one in drawn)
    assert np.array_equal(drawn[3], Choice(sample=5, seed=3).of(source))
    times_D = np.sum(drawn, axis=0)
    # Binomial, 200 times 5/12: a deviation of 7.0.
    assert np.abs(times_D - 200 * 5 / 12).max() < 4 * 7.0
    within = Choice(sample=2, documents=(10, None)).of(source)
    assert within.nonzero()[0].tolist() == [10, 11]


@pytest.mark.parametrize("container", ["zarr", "parquet"])
def test_a_subset_and_its_rest_are_the_store(container: str, tmp_path: Path) -> None:
    source = logitstore.open(_write(tmp_path / "store", container=container))
    choice = {"documents": "1:10", "sample": 5, "seed": 7}
    first, second = logitstore.subset(source, tmp_path / "some", rest=tmp_path / "rest", **choice)
    some, rest = logitstore.open(tmp_path / "some"), logitstore.open(tmp_path / "rest")
    assert (first.documents, second.documents) == (len(some), len(rest)) == (5, 7)
    assert _faults(some) + _faults(rest) == []
    assert_same_values(values_of(some) | values_of(rest), values_of(source))
    logitstore.merge(tmp_path / "whole", [some, tmp_path / "rest"])
    whole = logitstore.open(tmp_path / "whole")
    assert_same_values(values_of(whole), values_of(source))
    told = edits_of(whole.spec, place="")
    assert [edit.command for edit in told] == ["subset", "subset", "merge"]
    assert [edit.gave for edit in told] == [first.fingerprint, second.fingerprint, None]
    assert told[0].sources[0].fingerprint == source.fingerprint


def test_few_documents_of_many_units_are_few_units_and_keep_their_integers(tmp_path: Path) -> None:
    units = [stored_documents([12, 9, 14, 11], seed=10 * seed) for seed in range(9)]
    for number, unit in enumerate(units):
        for one in unit:
            object.__setattr__(one.document, "id", bytes([number, one.document.record]) * 8)
    write_store(tmp_path / "store", units, spec=store_spec(container="parquet"))
    source = logitstore.open(tmp_path / "store")
    (edited,) = logitstore.subset(source, tmp_path / "out", where="record == 1")
    found = logitstore.open(tmp_path / "out")
    assert (edited.units, len(found)) == (3, 9)
    wanted = {key: one for key, one in values_of(source).items() if key[1] == 1}
    assert_same_values(values_of(found), wanted)
    assert _faults(found) == []
    assert [unit.source for unit in found.layout.read_plan().units] == ["", "", "synthetic"]
    # Ids of the joined units are ranked by how often they are entries, as those of a dump.
    columns, tables = found.read_columns(0)
    ids = tables["ranking"][np.cumsum(columns.entries["id_delta"], axis=1)]
    counts = np.bincount(ids.reshape(-1), minlength=300)[tables["ranking"]]
    assert (np.diff(counts) <= 0).all()


def test_what_stays_the_same_is_copied_byte_by_byte(tmp_path: Path) -> None:
    source = logitstore.open(_write(tmp_path / "store", container="zarr"))
    (edited,) = logitstore.subset(source, tmp_path / "some", documents="4:")
    assert (edited.copied_units, edited.recoded_units) == (2, 0)
    merged = logitstore.merge(tmp_path / "whole", [tmp_path / "some", source], duplicates="keep")
    assert (merged.copied_units, merged.recoded_units) == (6, 0)
    copied = _hashes(logitstore.open(tmp_path / "whole"))
    assert copied == _hashes(source)[2:] + _hashes(source)
    size = sum(one.size for commit in source.commits for one in commit.objects)
    assert merged.copied_bytes == size + edited.copied_bytes
    for name in ("some", "whole"):
        assert _faults(tmp_path / name) == []


def test_documents_are_taken_by_their_ids(store: Path, tmp_path: Path) -> None:
    source = logitstore.open(store)
    wanted = [source[number].document.id for number in (7, 2, 11)]
    ids = tmp_path / "ids.txt"
    ids.write_text("# some\n\n" + "\n".join(one.hex().upper() for one in (*wanted, wanted[0])))
    logitstore.subset(store, tmp_path / "out", ids=str(ids))
    found = logitstore.open(tmp_path / "out")
    assert [one.document.id for one in found] == [
        source[number].document.id for number in (2, 7, 11)
    ]
    ids.write_text("\n".join([wanted[0].hex(), "00" * 16]))
    with pytest.raises(SettingError, match=f"1 of the 2 ids.*found {'00' * 16}"):
        logitstore.subset(store, tmp_path / "other", ids=str(ids))
    ids.write_text("xyz\n")
    with pytest.raises(SettingError, match=r"ids.txt:1: this is no id"):
        logitstore.subset(store, tmp_path / "other", ids=str(ids))


def test_the_same_command_of_a_file_that_has_changed_is_told(store: Path, tmp_path: Path) -> None:
    ids = [one.document.id.hex() for one in logitstore.open(store)]
    (tmp_path / "ids").write_text("\n".join(ids[:3]))
    logitstore.subset(store, tmp_path / "out", ids=str(tmp_path / "ids"))
    (tmp_path / "ids").write_text("\n".join(ids[:4]))
    with pytest.raises(SpecError, match="the same command made the store that lies there, of a"):
        logitstore.subset(store, tmp_path / "out", ids=str(tmp_path / "ids"))


def test_duplicates_are_told_from_documents_of_the_same_name(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = _documents()
    other = replace(documents[3].document, input_ids_L=documents[3].document.input_ids_L[::-1])
    mixed = [*documents[:3], replace(documents[3], document=other)]
    spec = logitstore.open(store).spec
    write_store(tmp_path / "two", [mixed], spec=replace(spec, provenance={}))
    for do, size, share, compared in (("keep", 16, 4_000_000, 250_000), ("drop", 13, 5, 2)):
        monkeypatch.setattr(duplicates, "_AT_ONCE", share)
        monkeypatch.setattr(duplicates, "_COMPARED", compared)
        notes: list[str] = []
        logitstore.merge(
            tmp_path / do, [store, tmp_path / "two"], duplicates=do, on_note=notes.append
        )
        assert notes[0].startswith("3 documents have the id and the tokens of an earlier one")
        assert notes[1].startswith("1 documents have the id of an earlier one and other tokens")
        found = logitstore.open(tmp_path / do)
        assert len(found) == size
        assert _faults(found) == []
        assert np.array_equal(found[-1].document.input_ids_L, other.input_ids_L)
    with pytest.raises(StoreError, match=r"3 documents.*duplicates drop or keep"):
        logitstore.merge(tmp_path / "no", [store, tmp_path / "two"], duplicates="refuse")
    assert not (tmp_path / "no").exists()


def test_stores_that_cannot_be_one_are_refused_with_all_that_differs(
    store: Path, tmp_path: Path
) -> None:
    spec = logitstore.open(store).spec
    teacher, text = replace(spec.teacher, dtype="bfloat16"), replace(spec.text, turns="last")
    codec = new_codec(spec.sparsifier, vocab_size=300, fidelity="compact").spec
    _write(tmp_path / "two", container="zarr", teacher=teacher, codec=codec, text=text)
    with pytest.raises(SpecError) as caught:
        logitstore.merge(tmp_path / "out", [store, tmp_path / "two"])
    for told in (
        "container: parquet there, zarr",
        "teacher.dtype: float32 there, bfloat16",
        "codec.parameters.value_steps: 24 there, 4",
        "text.turns: all there, last",
        "logitstore convert",
    ):
        assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_corpora_may_differ_in_their_fields(store: Path, tmp_path: Path) -> None:
    spec = logitstore.open(store).spec
    text = replace(spec.text, text_field="body", max_length=900)
    corpus = replace(spec.corpus, name="chats", fingerprint="5" * 64)
    _write(tmp_path / "two", text=text, corpus=corpus)
    logitstore.merge(tmp_path / "out", [store, tmp_path / "two"])
    found = logitstore.open(tmp_path / "out").spec
    assert (found.text.text_field, found.text.max_length) == (None, 900)
    assert found.corpus.name == "synthetic + chats"


# --- what is refused, and what is gone on with


def test_no_store_is_written_over_another_or_into_itself(store: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(store)
    before = sorted(store.rglob("*"))
    for out, told in (
        (store, "cannot lie at the place of another one"),
        (link, "cannot lie at the place of another one"),
        (store / "new", "cannot lie within"),
        (tmp_path, "cannot lie around"),
        (foreign, "OUT holds something that is no store"),
    ):
        with pytest.raises((SettingError, StoreError), match=told):
            logitstore.subset(store, out, sample=2)
    with pytest.raises(SettingError, match="cannot lie at the place of"):
        logitstore.subset(store, tmp_path / "out", rest=tmp_path / "out", sample=2)
    assert sorted(store.rglob("*")) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["foreign", "link", "store"]


def test_what_holds_nothing_or_is_not_there_is_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for choice, told in (
        ({"where": "tokens > 999"}, "no document of the store is chosen"),
        ({"documents": "5:99"}, "found 5:99; allowed: 0:12"),
        ({"sample": 13}, "fewer documents can be drawn from"),
        ({}, "nothing says which documents are wanted"),
        ({"sample": 12, "rest": tmp_path / "rest"}, "no document is left for"),
    ):
        with pytest.raises((SettingError, StoreError), match=told):
            logitstore.subset(store, out, **choice)
    with pytest.raises(SettingError, match=r"fewer entries.*found 9; allowed: 1..8"):
        logitstore.convert(store, out, k=9)
    with pytest.raises(SettingError, match="one store cannot be merged"):
        logitstore.merge(out, [store])
    (store / "manifest.json").unlink()
    with pytest.raises(StoreError, match="the store is not finished"):
        logitstore.convert(store, out, format="zarr")
    assert not out.exists()


def test_a_finished_store_is_left_as_it_is_and_another_command_is_refused(
    store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (first,) = logitstore.subset(store, out, sample=4)
    again = logitstore.subset(store, out, sample=4)[0]
    assert again.found_finished
    assert not first.found_finished
    assert again.fingerprint == first.fingerprint
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for other in (
        lambda: logitstore.subset(store, out, sample=4, seed=1),
        lambda: logitstore.convert(store, out),
        lambda: logitstore.merge(out, [store, _write(tmp_path / "two")]),
    ):
        with pytest.raises(SpecError, match="another command made the store that lies there"):
            other()
    with pytest.raises(SpecError, match="found a dump of synthetic"):
        logitstore.convert(store, tmp_path / "two")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


class _Killed(BaseException):
    """What no code catches as an error."""


class _Mortal(DictStorage):
    """A storage whose process dies before one of its writes, and can do nothing from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    def put(self, name: str, data: bytes) -> None:
        self._live(name)
        super().put(name, data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        self._live(name)
        return super().put_if_absent(name, data)

    def delete(self, name: str) -> None:
        if self.left is not None and self.left <= 0:
            raise _Killed
        super().delete(name)

    def _live(self, name: str) -> None:
        if self.left is not None and not name.startswith("leases/"):
            self.left -= 1
            if self.left < 0:
                raise _Killed


@pytest.mark.parametrize("command", ["subset", "convert"])
def test_the_same_command_finishes_what_was_killed(
    command: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("logitstore.store.lease._LEASE_SECONDS", 0.0)  # the dead one's lapse
    source = logitstore.open(store)
    run: dict[str, Callable[[DictStorage], Any]] = {
        "subset": lambda out: logitstore.subset(source, out, documents="2:6")[0],
        "convert": lambda out: logitstore.convert(source, out, k=4),
    }
    wanted = run[command](DictStorage()).fingerprint
    for point in count(step=2):
        out = _Mortal()
        out.left = point
        try:
            edited = run[command](out)
        except _Killed:
            out.left = None
            edited = run[command](out)
        else:
            assert point > 10
            break
        assert edited.fingerprint == wanted
        assert not list(logitstore.strays(logitstore.open(out)))
    assert _faults(out) == []


def test_a_damaged_source_is_refused_or_its_damage_left_out(tmp_path: Path) -> None:
    source = logitstore.open(_write(tmp_path / "store", container="zarr", block_targets=20))
    layout: StoreLayout = source.layout
    shard = tmp_path / "store" / layout.shard_prefix(source.commits[2])
    entries = shard / "entries" / "c" / "0" / "0" / "0"
    data = bytearray(entries.read_bytes())
    data[10] ^= 1  # of the first block
    entries.write_bytes(bytes(data))
    for run in (
        lambda: logitstore.convert(source, tmp_path / "out"),
        lambda: logitstore.merge(tmp_path / "out", [source, source]),
        lambda: logitstore.subset(source, tmp_path / "out", documents="4:6"),
    ):
        with pytest.raises(CorruptionError, match=r"000002-.*damaged blocks out"):
            run()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    edited = logitstore.convert(source, tmp_path / "out", skip_damaged=True)
    sound = source.sound()
    assert 0 < edited.documents == len(sound) < len(source)
    found = logitstore.open(tmp_path / "out")
    assert_same_values(values_of(found), values_of(sound))
    assert _faults(found) == []
    damaged = [one.number for one in sound.damaged]
    assert logitstore.inspect(found)["edits"][-1]["sources"][0]["damaged"] == damaged
    with pytest.raises(CorruptionError, match="more blocks are damaged"):
        logitstore.convert(source, tmp_path / "other", skip_damaged=0)


def test_a_unit_too_large_to_be_held_becomes_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = logitstore.open(_write(tmp_path / "zarr", container="zarr", block_targets=20))
    monkeypatch.setattr(planning, "_MOST_ENTRIES", 8 * 30)
    edited = logitstore.convert(source, tmp_path / "out", format="parquet")
    assert edited.units > len(source.commits)
    found = logitstore.open(tmp_path / "out")
    assert_same_values(values_of(found), values_of(source))
    assert found.spec.corpus.fingerprint != source.spec.corpus.fingerprint
    assert _faults(found) == []


def test_the_command_line_and_what_is_told_of_an_edit(store: Path, tmp_path: Path) -> None:
    out, rest = str(tmp_path / "out"), str(tmp_path / "rest")
    words = ["subset", str(store), out, "--where", "tokens > 20", "--rest", rest]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "6 of 12 documents are chosen" in done.stderr
    assert done.stdout.count("fingerprint ") == 2
    again = CliRunner().invoke(app, [*words, "--json"])
    told = json.loads(again.stdout)
    assert (told["documents"], told["rest"]["documents"]) == (6, 6)
    merged = CliRunner().invoke(app, ["merge", str(tmp_path / "all"), out, rest])
    assert merged.exit_code == 0, merged.output
    odd = CliRunner().invoke(app, ["convert", str(tmp_path / "all"), out])
    assert odd.exit_code == 1
    assert "another command made the store that lies there" in odd.stderr
    assert len(odd.stderr.splitlines()) == 2
    wrong = CliRunner().invoke(app, ["subset", str(store), out, "--where", "tokens > \x1b[0m"])
    assert wrong.exit_code == 2
    assert "\x1b" not in wrong.output
    card = (tmp_path / "all" / "README.md").read_text()
    assert "| edit 1 | subset where=tokens &gt; 20 of store (" in card
    assert "| edit 3 | merge duplicates=keep of out (" in card
