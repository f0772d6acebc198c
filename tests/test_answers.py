"""From answers to a store: their tokens, who gave them, and with which probabilities."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import logitstore
from logitstore.corpus.corpus import open_corpus
from logitstore.errors import CorpusError, TokenizerError
from logitstore.store.containers import CONTAINERS
from logitstore.store.verify import verify

PROMPTS = ["The teacher", "A target is the distribution of the", "the", "next token given"]


@pytest.fixture(scope="module")
def answers(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in PROMPTS))
    logitstore.generate(
        model=str(teacher_folder),
        data=str(data),
        out=folder / "answers.parquet",
        n=2,
        max_new_tokens=10,
        temperature=0.9,
    )
    return folder / "answers.parquet"


def _dump(teacher_folder: Path, data: object, out: Path, **more: Any) -> logitstore.Store:
    logitstore.dump(teacher=str(teacher_folder), data=data, out=out, k=4, sparsify="topk", **more)
    return logitstore.open(out)


@pytest.mark.parametrize("container", sorted(CONTAINERS))
def test_a_store_keeps_the_answers_and_their_samplers_probabilities(
    answers: Path, teacher_folder: Path, tmp_path: Path, container: str
) -> None:
    store = _dump(teacher_folder, str(answers), tmp_path / "store", format=container)
    rows = pq.read_table(answers).to_pylist()
    assert len(store) == len(rows)
    step = 1 / store.spec.codec.parameters["scalar_steps"]
    for stored, row in zip(store, rows, strict=True):
        own = np.array(row["loss_mask"], dtype=bool)
        assert stored.document.input_ids_L.tolist() == row["input_ids"]
        assert stored.document.counted_L.tolist() == own.tolist()
        drawn = [one for one in row["sampler_logprobs"] if one is not None]
        np.testing.assert_allclose(stored.document.sampler_logprobs_R, drawn, atol=step / 2)
        # It is its own teacher, so the model's own numbers are those of the labels.
        model = [one for one in row["model_logprobs"] if one is not None]
        np.testing.assert_allclose(stored.targets.label_logprob_R, model, atol=step)
    assert list(verify(tmp_path / "store")) == []
    told = logitstore.inspect(tmp_path / "store")
    (who,) = told["answers"]
    assert who["name"] == str(teacher_folder)
    assert who["fingerprint"] == told["teacher"]["fingerprint"]
    assert (who["settings"]["temperature"], who["settings"]["n"]) == (0.9, 2)
    drawn_all = np.concatenate([one.document.sampler_logprobs_R for one in store])
    assert told["sampler_loss"] == pytest.approx(-drawn_all.mean(), abs=step)
    assert told["column_bytes_per_target"]["sampler_logprob"] > 0
    card = (tmp_path / "store" / "README.md").read_text()
    (row,) = re.findall(r"^\| answers 1 \| (.*) \|$", card, flags=re.MULTILINE)
    assert row.startswith(f"of {teacher_folder}, sha256 {who['fingerprint']}; drawn with ")
    assert {"n 2", "seed 0", "temperature 0.9"} <= set(row.split("drawn with ")[1].split(", "))


def test_texts_have_the_store_that_they_had_and_no_sampler(
    teacher_folder: Path, tmp_path: Path
) -> None:
    store = _dump(teacher_folder, [{"text": "the student reads"}], tmp_path / "store")
    assert store[0].document.sampler_logprobs_R is None
    assert "answers" not in json.loads((tmp_path / "store/store.json").read_text())["corpus"]
    told = logitstore.inspect(tmp_path / "store")
    assert told["sampler_loss"] is None
    assert told["answers"] == []


def test_another_tokenizer_is_refused_before_a_teacher_is_loaded(
    answers: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher_folder, other)
    (other / "model.safetensors").unlink()
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"answers\.parquet: the answers were given by "):
        _dump(other, str(answers), tmp_path / "store")


RECORD = {"input_ids": [5, 6, 7, 8], "loss_mask": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([RECORD | {"sampler_logprobs": [0, 0, -1, -2]}, RECORD], "memory:2: .* has no sampler"),
        ([RECORD, RECORD | {"sampler_logprobs": [0, 0, -1, -2]}], "memory:2: .*the first .*none"),
        ([RECORD | {"sampler_logprobs": [0, 0, -1]}], "no list as long as the tokens"),
        ([RECORD | {"sampler_logprobs": [0, 0, -1, 0.5]}], "no log-probability at place 3"),
        ([RECORD | {"sampler_logprobs": [0, 0, None, -1]}], "no log-probability at place 2"),
        ([RECORD | {"sampler_logprobs": [0, 0, float("nan"), -1]}], "no log-prob.* at place 2"),
    ],
)
def test_what_is_no_samplers_probability_is_refused_by_name(
    records: list[dict[str, Any]], told: str, teacher_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=told):
        _dump(teacher_folder, records, tmp_path / "store")


def test_a_record_behind_the_first_few_must_have_them_too(
    teacher_folder: Path, tmp_path: Path
) -> None:
    full = RECORD | {"sampler_logprobs": [None, None, -1, -2]}
    with pytest.raises(CorpusError, match="memory:10: the record has no sampler_logprobs"):
        _dump(teacher_folder, [full] * 9 + [RECORD], tmp_path / "store")
    store = _dump(teacher_folder, [full] * 9 + [RECORD], tmp_path / "two", skip_bad=True)
    assert len(store) == 9


def test_any_field_may_hold_them_and_pieces_keep_their_own(
    teacher_folder: Path, tmp_path: Path
) -> None:
    ids = [0, *range(5, 25)]
    logprobs = [-place / 8 for place in range(21)]
    record = {"input_ids": ids, "logprobs": logprobs}
    store = _dump(
        teacher_folder, [record], tmp_path / "store", sampler_field="logprobs", max_length=8
    )
    assert len(store) > 2
    found = {
        int(token): float(value)
        for stored in store
        for token, value in zip(
            stored.document.input_ids_L[stored.document.counted_L],
            stored.document.sampler_logprobs_R,
            strict=True,
        )
    }
    assert found == dict(zip(ids[1:], logprobs[1:], strict=True))
    with pytest.raises(CorpusError, match="sampler_field has no effect"):
        _dump(teacher_folder, [{"text": "a b c"}], tmp_path / "text", sampler_field="logprobs")


def test_jsonl_and_parquet_of_the_same_answers_give_the_same_targets(
    answers: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    table = pq.read_table(answers)
    lines = tmp_path / "answers.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    one = _dump(teacher_folder, str(answers), tmp_path / "one")
    two = _dump(teacher_folder, str(lines), tmp_path / "two")
    for first, second in zip(one, two, strict=True):
        assert first.document.input_ids_L.tolist() == second.document.input_ids_L.tolist()
        np.testing.assert_array_equal(
            first.document.sampler_logprobs_R, second.document.sampler_logprobs_R
        )


def test_a_file_whose_end_is_damaged_is_refused(answers: Path, tmp_path: Path) -> None:
    """The end of a Parquet file, with the names of columns, has no checksum."""
    whole, damaged = answers.read_bytes(), tmp_path / "damaged.parquet"
    size = int.from_bytes(whole[-8:-4], "little")
    place = whole.index(b"sampler_logprobs", len(whole) - 8 - size)
    for change, told in ((1, "has no column sampler_logprobs"), (0x80, "cannot be read")):
        spoilt = bytearray(whole)
        spoilt[place] ^= change
        damaged.write_bytes(spoilt)
        with pytest.raises(CorpusError, match=told):
            open_corpus(damaged)


def test_a_file_that_says_no_size_of_its_vocabulary_is_refused(
    answers: Path, tmp_path: Path
) -> None:
    table = pq.read_table(answers)
    content = json.loads(table.schema.metadata[b"logitstore"])
    for size in (None, "300", -1, True):
        content["tokenizer"]["vocab_size"] = size
        spoilt = table.replace_schema_metadata({"logitstore": json.dumps(content)})
        pq.write_table(spoilt, tmp_path / "spoilt.parquet")
        with pytest.raises(logitstore.CorruptionError, match="vocab_size is no size"):
            open_corpus(tmp_path / "spoilt.parquet")


def test_a_file_of_a_newer_kind_is_refused(
    answers: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    table = pq.read_table(answers)
    newer = tmp_path / "newer.parquet"
    pq.write_table(table.replace_schema_metadata({"logitstore": '{"format": "x/9"}'}), newer)
    with pytest.raises(logitstore.CorruptionError, match="no file of answers that this version"):
        _dump(teacher_folder, str(newer), tmp_path / "store")
    assert pa.types.is_list(table.schema.field("input_ids").type)
