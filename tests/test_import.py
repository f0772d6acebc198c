"""Import: what writers of other systems' layouts were given is what a store holds, or a refusal."""

from __future__ import annotations

import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore import (
    CorpusError,
    LogitStoreError,
    SettingError,
    SpecError,
    TokenizerError,
    import_store,
    verify,
)
from logitstore.exchange import survey
from logitstore.exchange.imports.distillkit_codec import Packed, ResidualBin
from tests import foreign_writers as writers
from tests.foreign_writers import VOCAB, WRITERS, Case


def _bytes_of(tokenizer: Any) -> dict[int, bytes]:
    """The bytes of each token, by the tokenizer's own decoder of one byte a sign."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte_of = {sign: byte for byte, sign in bytes_to_unicode().items()}
    special = set(tokenizer.all_special_tokens)
    return {
        number: token.encode() if token in special else bytes(byte_of[sign] for sign in token)
        for token, number in tokenizer.get_vocab().items()
    }


def _import(case: Case, out: Path, tokenizer: Any, **changed: Any) -> Any:
    options = {"tokenizer": tokenizer, **case.options, **changed}
    return import_store(case.source, out, **options)


def _check(case: Case, out: Path) -> None:
    stored = list(logitstore.open(out))
    assert len(stored) == len(case.expected)
    for one, wanted in zip(stored, case.expected, strict=True):
        document, targets = one.document, one.targets
        assert document.input_ids_L.tolist() == wanted.tokens
        assert np.flatnonzero(document.counted_L).tolist() == sorted(wanted.rows)
        for row, (_, values) in enumerate(sorted(wanted.rows.items())):
            used = targets.used_RK()[row]
            found = dict(
                zip(targets.ids_RK[row][used].tolist(), targets.logprobs_RK[row][used], strict=True)
            )
            mass = math.fsum(map(math.exp, values.values()))
            shift = math.log(mass) if case.shares else 0.0
            assert set(found) == set(values)
            for number, value in values.items():
                assert found[number] == pytest.approx(value - shift, abs=case.tolerance)
            if not case.shares:
                tail = float(np.exp(targets.tail_logmass_RB[row, 0]))
                assert tail == pytest.approx(1 - mass, abs=2e-3)
        if not case.whole:
            assert np.isnan(targets.label_logprob_R).all()
            assert np.isnan(targets.entropy_R).all()


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_written_is_what_is_read(name: str, tmp_path: Path, tokenizer: Any) -> None:
    case, out = WRITERS[name](tmp_path), tmp_path / "store"
    notes: list[str] = []
    summary = _import(case, out, tokenizer, on_note=notes.append)
    _check(case, out)
    assert summary.values == ("whole" if case.whole else "shares" if case.shares else "logprobs")
    assert not list(verify(out))
    told = logitstore.inspect(out)["imported"]
    assert told["lacks"] == list(summary.lacks)
    assert all(any(one in line for line in notes) for one in summary.lacks)


def test_tokens_are_told_by_their_bytes_where_no_other_has_them(
    tmp_path: Path, tokenizer: Any
) -> None:
    names = _bytes_of(tokenizer)
    case = writers.openai(tmp_path, names)
    _import(case, tmp_path / "store", tokenizer)
    _check(case, tmp_path / "store")
    # What is no character by itself is written as the sign of a lost one, which names no token.
    text = case.source.read_text().splitlines()[0]
    entry = json.loads(text)["choices"][0]["logprobs"]["content"][0]["bytes"]
    case.source.write_text(text.replace(json.dumps(entry), json.dumps([*"\ufffd".encode()])) + "\n")
    with pytest.raises(CorpusError, match="do not name one id"):
        _import(case, tmp_path / "other", tokenizer)


@pytest.mark.parametrize("alignment", ["same", "next"])
def test_rows_of_a_told_alignment_are_tested_against_the_tokens(
    alignment: str, tmp_path: Path, tokenizer: Any
) -> None:
    case = writers.axolotl(tmp_path, alignment=alignment)
    _import(case, tmp_path / "store", tokenizer)
    _check(case, tmp_path / "store")
    other = {"same": "next", "next": "same"}[alignment]
    with pytest.raises(CorpusError, match=r"more often|behind the last"):
        _import(case, tmp_path / "other", tokenizer, alignment=other)
    assert not (tmp_path / "other").exists()


def test_rows_before_the_answer_that_are_masked_do_not_count(
    tmp_path: Path, tokenizer: Any
) -> None:
    case = writers.axolotl(tmp_path)
    table = pq.read_table(case.source / "train.parquet")
    values = table["target_logprobs"].to_pylist()
    values[0][0] = [-1.0, *([-2.0] * (len(values[0][0]) - 1))]  # as a server sends for the prompt
    changed = table.set_column(2, "target_logprobs", pa.array(values))
    pq.write_table(changed, case.source / "train.parquet")
    _import(case, tmp_path / "store", tokenizer)
    _check(case, tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("axolotl", "alignment", "--alignment is missing"),
        ("llamacpp", "bos", "--bos is missing"),
        ("megatron", "tokens", "--tokens is missing"),
        ("axolotl_raw", "tokens", "--tokens is missing"),
        ("distillkit_centred", "config", "--config is missing"),
    ],
)
def test_what_a_file_cannot_tell_is_asked_for(
    name: str, missing: str, message: str, tmp_path: Path, tokenizer: Any
) -> None:
    case = WRITERS[name](tmp_path)
    with pytest.raises(SettingError) as caught:
        _import(case, tmp_path / "store", tokenizer, **{missing: None})
    assert message in caught.value.command_line_message
    assert not (tmp_path / "store").exists()


def test_bos_that_was_read_takes_the_place_of_the_first_token(
    tmp_path: Path, tokenizer: Any
) -> None:
    case = writers.llamacpp(tmp_path)
    _import(case, tmp_path / "store", tokenizer, bos="7")
    for one, wanted in zip(logitstore.open(tmp_path / "store"), case.expected, strict=True):
        assert one.document.input_ids_L.tolist() == [7, *wanted.tokens[1:]]


def test_whole_distributions_are_sparsified_as_a_dump_does(tmp_path: Path, tokenizer: Any) -> None:
    case = writers.llamacpp(tmp_path)
    _import(case, tmp_path / "store", tokenizer, sparsify="unbiased", k=16)
    store, made = logitstore.open(tmp_path / "store"), writers.texts(5)
    assert store.spec.sparsifier.name == "unbiased"
    for one, text in zip(store, made, strict=True):
        rows = one.document.counted_L.nonzero()[0] - 1
        labels = one.document.input_ids_L[one.document.counted_L]
        expected = text.logp_RV[rows, labels]
        assert one.targets.label_logprob_R == pytest.approx(expected, abs=2e-3)
        entropy = -(np.exp(text.logp_RV) * text.logp_RV).sum(axis=1)[rows]
        assert one.targets.entropy_R == pytest.approx(entropy, abs=5e-3)
    plain = writers.vllm(tmp_path)
    with pytest.raises(SettingError, match="the files say what is kept"):
        _import(plain, tmp_path / "other", tokenizer, k=3)


def test_logits_are_told_from_log_probabilities_by_their_sums(
    tmp_path: Path, tokenizer: Any
) -> None:
    case = writers.distillkit_centred(tmp_path)
    with pytest.raises(SettingError, match="add up to more than 1"):
        _import(case, tmp_path / "store", tokenizer, values="logprobs")
    plain = writers.distillkit_centred(tmp_path, centred=False)
    assert _import(plain, tmp_path / "store", tokenizer).values == "logprobs"
    _check(plain, tmp_path / "store")


def test_rows_that_a_fit_made_too_heavy_are_scaled_and_counted(
    tmp_path: Path, tokenizer: Any
) -> None:
    case = writers.distillkit(tmp_path)
    table = pq.read_table(tmp_path / "data_0.parquet")
    values = table["top_values"].to_pylist()
    values[0][2] = [-1.0] * writers.K
    pq.write_table(table.set_column(2, "top_values", pa.array(values)), tmp_path / "data_0.parquet")
    assert _import(case, tmp_path / "store", tokenizer).scaled_rows == 1
    targets = logitstore.open(tmp_path / "store")[0].targets
    assert targets.weights_RK[2] == pytest.approx(1 / writers.K, abs=2e-3)
    assert targets.tail_logmass_RB[2, 0] == logitstore.EMPTY_TAIL


def test_a_tokenizer_of_more_ids_than_the_file_tells_is_refused(tmp_path: Path) -> None:
    words = {f"w{number}": number for number in range(2000)}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    larger = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="w0")
    with pytest.raises(TokenizerError, match="more ids than the files say"):
        _import(writers.llamacpp(tmp_path), tmp_path / "store", larger)
    assert not (tmp_path / "store").exists()


def test_a_setting_that_stands_twice_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    case = writers.distillkit_packed(tmp_path)
    with (tmp_path / "compression_config.yaml").open("a") as file:
        file.write("\nk: 3\n")
    with pytest.raises(SettingError, match="stands twice"):
        _import(case, tmp_path / "store", tokenizer)


def test_strings_and_pickles_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    for case, message in (
        (writers.vllm_echo(tmp_path, named=False), "several ids may have the same"),
        (writers.pickled(tmp_path), "never read"),
    ):
        with pytest.raises(CorpusError, match=message):
            _import(case, tmp_path / "store", tokenizer)
    case = writers.axolotl_raw(tmp_path, legacy=True)
    _import(case, tmp_path / "store", tokenizer)
    _check(case, tmp_path / "store")


def test_packed_values_follow_the_description() -> None:
    """Every optional part at once, against a plain loop over scalars."""
    generator = np.random.default_rng(0)
    codec = Packed(
        d=301,
        k=12,
        exact_k=3,
        exact_dtype="float16",
        polynomial_terms=(0, 2, "sqrt", "exp"),
        term_dtype="float64",
        residual_bins=(
            ResidualBin(scale_dtype="float32", element_bits=5, num_elements=3),
            ResidualBin(scale_dtype="float16", element_bits=1, num_elements=4),
        ),
        delta_encoding=True,
        normalize_t=True,
    )
    exact = generator.normal(size=3).astype(np.float16)
    terms = generator.normal(size=4)
    scales = (np.float32(0.03), np.float16(0.5))
    codes = (generator.integers(32, size=3), generator.integers(2, size=4))
    stream = exact.tobytes() + terms.tobytes()
    for scale, code, bits in zip(scales, codes, (5, 1), strict=True):
        text = "".join(format(int(one), f"0{bits}b") for one in code)
        text += "0" * (-len(text) % 8)
        packed = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
        stream += np.asarray(scale).tobytes() + packed
    ids = generator.permutation(300)[:12]
    text = "".join(format(int(one), "09b") for one in ids)
    text += "0" * (-len(text) % 8)
    id_bytes = [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]
    residuals = [(int(one) - 16) * float(scales[0]) for one in codes[0]]
    residuals += [(2 * int(one) - 1) * float(scales[1]) for one in codes[1]] + [0.0, 0.0]
    values, total = [], 0.0
    for rank in range(12):
        if rank < 3:
            step = float(exact[rank])
        else:
            t = (rank - 3) / 8
            powers = (1.0, t**2, math.sqrt(t), math.exp(t))
            step = sum(a * b for a, b in zip(terms, powers, strict=True)) + residuals[rank - 3]
        total += step
        values.append(float(np.float16(total)))
    table = pa.table({"compressed_logprobs": [[[*stream]]], "bytepacked_indices": [[id_bytes]]})
    rows = codec.decode({name: table[name][0] for name in table.column_names}, "here")
    assert rows.ids_RK[0].tolist() == ids.tolist()
    assert rows.values_RK[0] == pytest.approx(values, abs=2e-3)
    with pytest.raises(CorpusError, match="another width"):
        replace(codec, exact_k=2).decode(
            {name: table[name][0] for name in table.column_names}, "here"
        )


def _change_row(column: str, change: Any) -> Any:
    def changed(case: Case) -> None:
        path = case.source / "data_0.parquet"
        table = pq.read_table(path)
        values = table[column].to_pylist()
        change(values)
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, pa.array(values)), path)

    return changed


def _set(place: tuple[int, ...], value: Any) -> Any:
    def change(values: Any) -> None:
        for one in place[:-1]:
            values = values[one]
        values[place[-1]] = value

    return change


DAMAGE = {
    "an id beyond the vocabulary": _change_row("token_ids", _set((0, 1, 2), VOCAB)),
    "an id below 0": _change_row("token_ids", _set((0, 1, 2), -1)),
    "an id twice": _change_row("token_ids", lambda v: v[0][1].__setitem__(1, v[0][1][0])),
    "no number": _change_row("top_values", _set((1, 2, 0), math.nan)),
    "infinity": _change_row("top_values", _set((1, 2, 0), math.inf)),
    "a null": _change_row("top_values", _set((1, 2, 0), None)),
    "a shorter row": _change_row("top_values", lambda v: v[0][1].pop()),
    "a row less": _change_row("top_values", lambda v: v[0].pop()),
    "two rows less": lambda case: [
        _change_row(name, lambda v: [v[0].pop(), v[0].pop()])(case)
        for name in ("top_values", "token_ids")
    ],
    "a token beyond the vocabulary": _change_row("input_ids", _set((0, 1), 1 << 40)),
    "text for tokens": _change_row("input_ids", _set((slice(None),), [["a"], ["b"], ["c"]])),
}


def test_values_beyond_what_their_type_holds_are_read_without_a_warning() -> None:
    """They are refused as values that are not finite, in a sentence of this project."""
    codec = Packed(
        d=300,
        k=2,
        exact_k=2,
        exact_dtype="float32",
        polynomial_terms=(0,),
        term_dtype="float32",
        delta_encoding=True,
    )
    raw = np.full(3, 3e38, dtype=np.float32).tobytes()
    row = {
        "compressed_logprobs": pa.scalar([list(raw)]),
        "bytepacked_indices": pa.scalar([[0] * 3]),
    }
    values_RK = codec.decode(row, "here").values_RK
    assert values_RK[0, 1] == math.inf


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_rows_are_refused_before_anything_is_written(
    name: str, tmp_path: Path, tokenizer: Any
) -> None:
    case = writers.distillkit(tmp_path)
    DAMAGE[name](case)
    with pytest.raises(CorpusError) as caught:
        _import(case, tmp_path / "store", tokenizer)
    assert str(caught.value).isprintable()
    assert "data_0.parquet" in str(caught.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", [*WRITERS, "pickled"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_truncated_files_are_refused(
    name: str, kept: float, tmp_path: Path, tokenizer: Any
) -> None:
    case = getattr(writers, name)(tmp_path)
    path = case.source if case.source.is_file() else _first_data(case.source)
    data = path.read_bytes()
    if name == "megatron":  # a tar file ends with blocks of zeros
        data = data.rstrip(b"\0")
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(LogitStoreError) as caught:
        _import(case, tmp_path / "store", tokenizer)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "store").exists()


def test_a_tar_that_ends_between_two_members_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    case = writers.megatron(tmp_path)
    path = tmp_path / "cp0_dp0__1.tar"
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset])
    with pytest.raises(CorpusError, match="does not end with the iteration"):
        _import(case, tmp_path / "store", tokenizer)


def _first_data(folder: Path) -> Path:
    kinds = ("*.array_record", "cp*.tar", "data_*.parquet", "train.parquet")
    return next(path for kind in kinds for path in sorted(folder.glob(kind)))


def test_huge_declared_sizes_cost_no_memory(tmp_path: Path, tokenizer: Any) -> None:
    case = writers.llamacpp(tmp_path)
    data = bytearray(case.source.read_bytes())
    data[16:20] = (2**31 - 1).to_bytes(4, "little")
    case.source.write_bytes(bytes(data))
    with pytest.raises(CorpusError, match="another size than its header says"):
        _import(case, tmp_path / "store", tokenizer)


def test_tokens_that_have_changed_are_those_of_another_import(
    tmp_path: Path, tokenizer: Any
) -> None:
    case = writers.openai(tmp_path, _bytes_of(tokenizer))
    _import(case, tmp_path / "store", tokenizer)
    path = case.options["tokens"]
    first, rest = path.read_text().split("\n", 1)
    ids = json.loads(first)["input_ids"]
    path.write_text(json.dumps({"input_ids": [ids[0] ^ 1, *ids[1:]]}) + "\n" + rest)
    with pytest.raises(SpecError, match=r"corpus\.fingerprint"):
        _import(case, tmp_path / "store", tokenizer)


def test_an_interrupted_import_goes_on_where_it_stopped(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_UNIT_TOKENS", 1)  # a unit for each document
    case = writers.axolotl(tmp_path)
    whole = _import(case, tmp_path / "whole", tokenizer)

    def stop(progress: Any) -> None:
        if progress.stage == "writing" and progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        _import(case, tmp_path / "store", tokenizer, on_progress=stop)
    assert "1 of 3 units are stored" in caught.value.__notes__[0]
    first = next((tmp_path / "store" / "commits").iterdir()).read_bytes()
    with pytest.raises(SpecError, match="other settings"):
        _import(case, tmp_path / "store", tokenizer, fidelity="compact")
    again = _import(case, tmp_path / "store", tokenizer)
    assert again.fingerprint == whole.fingerprint
    assert (tmp_path / "store" / "commits" / "000000.json").read_bytes() == first
    pq.write_table(
        pq.read_table(case.source / "train.parquet").slice(1), case.source / "train.parquet"
    )
    with pytest.raises(SpecError, match=r"corpus\.fingerprint"):
        _import(case, tmp_path / "store", tokenizer)
