"""Answers by real runs: against transformers' own, killed, side by side, and with bad input."""

import fcntl
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

import logitstore
from logitstore.errors import CorpusError, ModelError, SettingError, SpecError, StorageError
from logitstore.plumbing import load_model
from tests.forked import run, start
from tools.architectures import make_model

PROMPTS = ["The teacher", "A target is the distribution of the", "the", "next token given", "x y z"]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in PROMPTS))
    return path


@pytest.fixture
def settings(teacher_folder: Path, prompts: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(teacher_folder),
        "data": str(prompts),
        "out": tmp_path / "answers.parquet",
        "n": 3,
        "max_new_tokens": 12,
        "part_answers": 6,
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        pq.ParquetFile(path, page_checksum_verification=True).read().to_pylist()
    )
    return rows


def _answers(path: Path) -> dict[tuple[str, int], list[int]]:
    return {(row["prompt"], row["answer"]): row["input_ids"] for row in _rows(path)}


def _command(settings: dict[str, Any]) -> list[str]:
    words = ["logitstore", "generate"]
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def test_greedy_answers_are_those_of_transformers_one_by_one(
    settings: dict[str, Any], teacher_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    logitstore.generate(**settings | {"n": 1, "temperature": 0})
    model = AutoModelForCausalLM.from_pretrained(teacher_folder).eval()
    config = GenerationConfig(max_new_tokens=12, eos_token_id=0, pad_token_id=0)
    for number, row in enumerate(_rows(settings["out"])):
        ids_BL = torch.tensor([tokenizer(PROMPTS[number])["input_ids"]])
        wanted = model.generate(ids_BL, generation_config=config)[0].tolist()
        assert row["input_ids"] == wanted


def test_rows_say_what_the_answer_is_and_how_probable_it_was(
    settings: dict[str, Any], teacher_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    summary = logitstore.generate(**settings, temperature=0.8)
    rows = _rows(settings["out"])
    assert [row["prompt"] for row in rows] == [one for one in PROMPTS for _ in range(3)]
    assert [row["answer"] for row in rows] == [0, 1, 2] * len(PROMPTS)
    assert len({tuple(row["input_ids"]) for row in rows}) > len(PROMPTS)
    model = AutoModelForCausalLM.from_pretrained(teacher_folder).eval()
    for number, row in enumerate(rows):
        prompt = tokenizer(PROMPTS[number // 3])["input_ids"]
        ids, said = row["input_ids"], len(row["input_ids"]) - len(prompt)
        assert ids[: len(prompt)] == prompt
        assert row["loss_mask"] == [0] * len(prompt) + [1] * said
        with torch.inference_mode():
            logits_LV = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1, :300].double()
        at = (range(said), ids[len(prompt) :])
        for name, temperature in (("sampler_logprobs", 0.8), ("model_logprobs", 1.0)):
            wanted = (logits_LV / temperature).log_softmax(dim=-1)[at]
            assert row[name][: len(prompt)] == [None] * len(prompt)
            np.testing.assert_allclose(row[name][len(prompt) :], wanted, atol=1e-3)
        assert row["finish"] == ("stop" if ids[-1] == 0 else "length")
        ended = ids[len(prompt) : -1] if ids[-1] == 0 else ids[len(prompt) :]
        assert row["answer_text"] == tokenizer.decode(ended)
        assert 0 not in ended
    assert summary.answers == len(rows)
    assert summary.tokens == sum(sum(row["loss_mask"]) for row in rows)
    assert summary.cut == sum(row["finish"] == "length" for row in rows)
    assert summary.longest == max(len(row["input_ids"]) for row in rows)


def test_an_answer_depends_on_no_batch_and_no_neighbour(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    logitstore.generate(**settings)
    whole = _answers(settings["out"])
    for number, change in enumerate(
        ({"batch_tokens": 1}, {"part_answers": 100}, {"n": 1}, {"limit": 2})
    ):
        other = settings | change | {"out": tmp_path / f"{number}.parquet"}
        logitstore.generate(**other)
        found = _answers(other["out"])
        assert found == {key: whole[key] for key in found}
    logitstore.generate(**settings | {"seed": 1, "out": tmp_path / "seed.parquet"})
    assert _answers(tmp_path / "seed.parquet") != whole


def test_the_same_twice_is_the_same_file_and_a_finished_one_is_left_as_it_is(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    first = logitstore.generate(**settings)
    other = settings | {"out": tmp_path / "twin.parquet"}
    logitstore.generate(**other)
    assert settings["out"].read_bytes() == other["out"].read_bytes()
    before = settings["out"].stat().st_mtime_ns
    again = logitstore.generate(**settings)
    assert (first.new_answers, again.new_answers) == (15, 0)
    assert again.tokens == first.tokens
    assert settings["out"].stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.parquet", "twin.parquet"]


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings |= {"part_answers": 3, "n": 3, "max_new_tokens": 40}
    wanted = settings | {"out": tmp_path / "wanted.parquet"}
    logitstore.generate(**wanted)
    folder = settings["out"].with_name("answers.parquet.parts")
    process = start(*_command(settings))
    while process.poll() is None and not (folder / "000001.parquet").exists():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert not settings["out"].exists()
    done = len(list(folder.glob("0*.parquet")))
    assert 2 <= done < len(PROMPTS)
    again = logitstore.generate(**settings)
    assert again.new_answers == 3 * (len(PROMPTS) - done)
    assert settings["out"].read_bytes() == wanted["out"].read_bytes()
    assert not folder.exists()


def test_what_a_run_left_that_was_killed_at_its_very_end_is_removed(
    settings: dict[str, Any],
) -> None:
    logitstore.generate(**settings)
    whole = settings["out"].read_bytes()
    folder = settings["out"].with_name("answers.parquet.parts")
    folder.mkdir()
    for name in ("settings.parquet", "000000.parquet", "000001.parquet"):
        (folder / name).write_bytes(whole)
    assert logitstore.generate(**settings).new_answers == 0
    assert settings["out"].read_bytes() == whole
    assert not folder.exists()


def test_progress_is_told_at_every_step_and_only_rises(settings: dict[str, Any]) -> None:
    told: list[logitstore.Progress] = []
    logitstore.generate(**settings | {"part_answers": 100}, on_progress=told.append)
    answering = [one for one in told if one.stage == "answering"]
    assert len(answering) > 10  # of one part and one batch
    for name in ("fraction", "done"):
        values = [getattr(one, name) for one in answering]
        assert values == sorted(values)
    assert answering[-1].fraction == 1.0


def test_a_damaged_part_is_told_and_not_joined(settings: dict[str, Any]) -> None:
    folder = settings["out"].with_name("answers.parquet.parts")

    def stop(now: logitstore.Progress) -> None:
        if (folder / "000001.parquet").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        logitstore.generate(**settings, on_progress=stop)
    part = folder / "000000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 4] ^= 1
    part.write_bytes(data)
    with pytest.raises((logitstore.CorruptionError, StorageError), match="000000"):
        logitstore.generate(**settings)
    assert not settings["out"].exists()
    part.unlink()
    assert logitstore.generate(**settings).answers == 15


def test_of_two_processes_one_is_told(settings: dict[str, Any]) -> None:
    folder = settings["out"].with_name("answers.parquet.parts")
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process is at work on this file"):
            logitstore.generate(**settings)
    assert logitstore.generate(**settings).new_answers == 15


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": 0.5}, r"temperature 1\.0 there, 0\.5 here"),
        ({"seed": 3}, "seed 0 there, 3 here"),
        ({"top_k": 5}, "top_k not given there, 5 here"),
        ({"n": 2}, "n 3 there, 2 here"),
        ({"limit": 2}, r"corpus\.fingerprint .*limit not given there, 2 here"),
    ],
)
def test_other_settings_are_refused_by_name(
    settings: dict[str, Any], change: dict[str, Any], told: str
) -> None:
    logitstore.generate(**settings)
    before = settings["out"].read_bytes()
    with pytest.raises(SpecError, match=told):
        logitstore.generate(**settings | change)
    assert settings["out"].read_bytes() == before


def test_another_file_in_the_place_is_left_alone(settings: dict[str, Any]) -> None:
    pq.write_table(pq.read_table(_some_parquet(settings["out"])), settings["out"])
    with pytest.raises(StorageError, match="is another file than one of answers"):
        logitstore.generate(**settings)


def test_a_folder_in_the_place_is_told_before_a_model_is_loaded(settings: dict[str, Any]) -> None:
    settings["out"].mkdir()
    with pytest.raises(StorageError, match="is a folder"):
        logitstore.generate(**settings | {"model": "nowhere"})
    assert not settings["out"].with_name("answers.parquet.parts").exists()


def _some_parquet(beside: Path) -> Path:
    import pyarrow as pa

    path = beside.with_name("some.parquet")
    pq.write_table(pa.table({"text": ["a"]}), path)
    return path


def test_prompts_that_are_too_long_are_told_before_a_model_is_loaded(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text('{"prompt": "the"}\n{"prompt": "' + "x y " * 40 + '"}\n')
    long = settings | {"data": str(data)}
    (Path(settings["model"]) / "model.safetensors").stat()
    with pytest.raises(CorpusError, match=r"long\.jsonl:2: the prompt leaves too little"):
        logitstore.generate(**long)
    assert list(tmp_path.iterdir()) == [data]
    summary = logitstore.generate(**long, skip_bad=True)
    assert (summary.prompts, summary.skipped, summary.answers) == (1, 1, 3)
    with pytest.raises(SettingError, match="leaves no room for a prompt"):
        logitstore.generate(**settings | {"max_new_tokens": 64})


@pytest.mark.parametrize("ends", [[0], [17, 3]])
def test_an_answer_ends_with_any_end_of_the_generation_config(
    settings: dict[str, Any], teacher_folder: Path, ends: list[int], tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_folder).eval()
    model.lm_head.weight.data[ends[-1]] = 0  # no token is rare, so all ends come
    model.generation_config = GenerationConfig(eos_token_id=ends, repetition_penalty=9.0)
    logitstore.generate(
        **settings | {"model": model, "tokenizer": tokenizer, "n": 40, "temperature": 3.0}
    )
    rows = _rows(settings["out"])
    lasts = {row["input_ids"][-1] for row in rows if row["finish"] == "stop"}
    assert lasts == set(ends)
    said = [
        [token for token, own in zip(row["input_ids"], row["loss_mask"], strict=True) if own]
        for row in rows
    ]
    assert not any(set(ends) & set(one[:-1]) for one in said)
    cut = [one for one, row in zip(said, rows, strict=True) if row["finish"] != "stop"]
    assert {len(one) for one in cut} == {12}
    assert model.generation_config.repetition_penalty == 9.0


def test_an_empty_answer_is_one_token_that_counts(
    settings: dict[str, Any], teacher_folder: Path, tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_folder).eval()
    model.lm_head.weight.data.zero_()
    model.lm_head.weight.data[0] = 0
    model.lm_head.bias = torch.nn.Parameter(torch.eye(304)[0] * 50)
    summary = logitstore.generate(**settings | {"model": model, "tokenizer": tokenizer})
    assert (summary.empty, summary.tokens, summary.cut) == (15, 15, 0)
    assert [row["answer_text"] for row in _rows(settings["out"])] == [""] * 15


# Windows, position ids, a state that reads padding, one that is forgotten, RoPE that stretches.
@pytest.mark.parametrize(
    "name", ["gemma3", "gpt2", "recurrent_gemma", "rwkv", "llama:dynamic-rope"]
)
def test_other_kinds_of_models_answer_by_the_numbers_of_their_plain_forward(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    make_model(name, tmp_path / "model")
    given = settings | {
        "model": str(tmp_path / "model"),
        "data": [{"text": "the"}, {"text": "a b c d e f"}],
        "max_new_tokens": 6,
        "temperature": 0.5,
    }
    logitstore.generate(**given)
    logitstore.generate(**given | {"batch_tokens": 1, "out": tmp_path / "one.parquet"})
    rows = _rows(settings["out"])
    assert _answers(settings["out"]) == _answers(tmp_path / "one.parquet")
    model = load_model(tmp_path / "model", dtype=torch.float32)
    for row in rows:
        said = sum(row["loss_mask"])
        ids_L = torch.tensor(row["input_ids"])
        with torch.inference_mode():
            logits_LV = model(ids_L[None], use_cache=False).logits[0, -said - 1 : -1]
        size = pq_metadata(settings["out"])["tokenizer"]["vocab_size"]
        logp_LV = logits_LV[:, :size].double().log_softmax(dim=-1)
        wanted = logp_LV[torch.arange(said), ids_L[-said:]]
        np.testing.assert_allclose(row["model_logprobs"][-said:], wanted, atol=1e-3)


def pq_metadata(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"logitstore"])
    return content


def test_a_model_that_generates_by_other_numbers_is_refused(
    settings: dict[str, Any], teacher_folder: Path, tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_folder).eval()
    plain = model.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        outputs = plain(*args, **inputs)
        if inputs.get("attention_mask") is not None:  # as in generate, and in no plain forward
            outputs.logits = outputs.logits.roll(1, dims=-1)
        return outputs

    model.forward = forward
    with pytest.raises(ModelError, match="its answers could not be trusted"):
        logitstore.generate(**settings | {"model": model, "tokenizer": tokenizer})


def test_rows_that_are_no_distribution_are_told_or_left_out(
    settings: dict[str, Any], teacher_folder: Path, tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(teacher_folder).eval()
    word = tokenizer(PROMPTS[1])["input_ids"][-1]
    model.get_input_embeddings().weight.data[word] = torch.nan
    given = settings | {"model": model, "tokenizer": tokenizer}
    with pytest.raises(logitstore.NotFinite, match=r"prompts\.jsonl:"):
        logitstore.generate(**given)
    summary = logitstore.generate(**given, skip_bad=True)
    assert summary.left_out >= 3
    assert summary.answers == 15 - summary.left_out


def test_wrong_settings_exit_2(settings: dict[str, Any]) -> None:
    for change in (
        {"temperature": 0, "top_k": 3, "n": 1},
        {"temperature": 0},
        {"temperature": 1e-40},  # by which logits overflow
        {"out": "a.jsonl"},
    ):
        done = run(*_command(settings | change))
        assert done.returncode == 2, done.stderr


def test_the_command_prints_one_object(settings: dict[str, Any]) -> None:
    done = run(*_command(settings), "--json", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answers"] == 15
    assert "prompts.jsonl: prompts: 5 of prompt" in done.stderr
