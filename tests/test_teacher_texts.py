"""What only the teacher reads: targets behind its words, on the student's own tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import logitstore
from logitstore.errors import CorpusError, CorruptionError, SettingError, SpecError
from logitstore.targets.documents import Document, TeacherText
from tests.test_material import templated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

SYSTEM = "The student reads the text."
CHAT = [
    {"role": "user", "content": "The teacher?"},
    {"role": "assistant", "content": "reads the text once"},
    {"role": "user", "content": "And the student?"},
    {"role": "assistant", "content": "reads what the teacher wrote."},
]
Settings = dict[str, Any]


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return templated(tokenizer, "chatml")


@pytest.fixture(scope="module")
def teacher(
    chat_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small Llama of 304 ids and 256 positions, whose answers hang on what it has read."""
    folder = tmp_path_factory.mktemp("teacher")
    config = LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data.mul_(20)
    model.save_pretrained(folder)
    chat_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(teacher: Path, tmp_path: Path) -> Settings:
    return {
        "teacher": str(teacher),
        "out": tmp_path / "store",
        "sparsify": "topk",
        "k": 16,
        "fidelity": "exact",
    }


def rendered(tokenizer: Any, messages: Sequence[dict[str, Any]], *, prompt: bool = False) -> str:
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    )


def plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def answers(
    tokenizer: Any, before: Sequence[dict[str, Any]], chat: Sequence[dict[str, Any]]
) -> tuple[list[int], list[int]]:
    """The ids of a chat behind more messages, and the places of what the assistant says in it."""
    ids: list[int] = []
    places: list[int] = []
    said = ""
    for number, message in enumerate(chat):
        whole = rendered(tokenizer, [*before, *chat[: number + 1]])
        if message["role"] == "assistant":
            prompt = rendered(tokenizer, [*before, *chat[:number]], prompt=True)
            ids += plain(tokenizer, prompt[len(said) :])
            answer = plain(tokenizer, whole[len(prompt) :].rstrip("\n"))
            places += range(len(ids), len(ids) + len(answer))
            ids += answer
            said = whole.rstrip("\n")
    return ids, places


def losses(teacher: Path, ids: Sequence[int], places: Sequence[int]) -> np.ndarray:
    """nats: what plain transformers makes of those tokens, over the tokenizer's ids."""
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    with torch.no_grad():
        logits_LV = model(torch.tensor([list(ids)])).logits[0, :, :303].float()
    logprobs_LV = logits_LV.log_softmax(-1)
    return np.array([-float(logprobs_LV[place - 1, ids[place]]) for place in places])


def stored_losses(store: Any) -> np.ndarray:
    return np.concatenate([-one.targets.label_logprob_R for one in store])


def check(settings: Settings, tokenizer: Any, ids: list[int], places: list[int]) -> None:
    """The store's targets are the teacher's behind `ids`, its tokens those of the chat alone."""
    store = logitstore.open(settings["out"])
    (one,) = store
    own_ids, own_places = answers(tokenizer, [], CHAT)
    assert one.document.input_ids_L.tolist()[: len(own_ids)] == own_ids
    assert np.flatnonzero(one.document.counted_L).tolist() == own_places
    expected = losses(settings["teacher"], ids, places)
    assert stored_losses(store) == pytest.approx(expected, abs=2e-3)
    alone = losses(settings["teacher"], own_ids, own_places)
    assert np.abs(expected - alone).max() > 0.1  # the teacher's words matter


def test_a_system_prompt_that_only_the_teacher_reads(
    settings: Settings, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    assert len(chat_tokenizer) == 303
    settings |= {"data": [{"messages": CHAT}], "teacher_system": SYSTEM}
    notes: list[str] = []
    logitstore.dump(**settings, on_note=notes.append)
    assert "the teacher alone reads a system prompt of 27 characters" in notes
    ids, places = answers(chat_tokenizer, [{"role": "system", "content": SYSTEM}], CHAT)
    check(settings, chat_tokenizer, ids, places)
    assert not list(logitstore.verify(settings["out"]))
    corpus = logitstore.inspect(settings["out"])["corpus"]
    assert corpus["teacher_system"] is not None
    assert corpus["teacher_messages"] is False


def test_a_systems_own_prompt_stays_below_the_teachers(
    settings: Settings, chat_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    own = {"role": "system", "content": "Be short."}
    file = tmp_path / "system.txt"
    file.write_text(f"{SYSTEM}\n")
    logitstore.dump(**settings, data=[{"messages": [own, *CHAT]}], teacher_system=file)
    both = {"role": "system", "content": f"{SYSTEM}\n\nBe short."}
    ids, places = answers(chat_tokenizer, [both], CHAT)
    expected = losses(settings["teacher"], ids, places)
    assert stored_losses(logitstore.open(settings["out"])) == pytest.approx(expected, abs=2e-3)


HINT = {"role": "system", "content": "The answer is in what the teacher wrote."}


@pytest.mark.parametrize("whole", [True, False])
def test_messages_of_a_record_that_only_the_teacher_reads(
    settings: Settings, chat_tokenizer: PreTrainedTokenizerFast, whole: bool
) -> None:
    """With the last answer or without it: it is that of the record."""
    record = {"messages": CHAT, "teacher_messages": [HINT, *(CHAT if whole else CHAT[:-1])]}
    settings["data"] = [record]
    logitstore.dump(**settings)
    ids, places = answers(chat_tokenizer, [HINT], CHAT)
    check(settings, chat_tokenizer, ids, places)
    assert logitstore.inspect(settings["out"])["corpus"]["teacher_messages"] is True


def test_pieces_of_a_long_chat_are_read_behind_all_that_stands_before(
    settings: Settings, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings |= {"data": [{"messages": CHAT}], "teacher_system": SYSTEM, "max_length": 24}
    logitstore.dump(**settings)
    store = logitstore.open(settings["out"])
    assert len(store) > 2
    ids, places = answers(chat_tokenizer, [{"role": "system", "content": SYSTEM}], CHAT)
    expected = losses(settings["teacher"], ids, places)
    assert stored_losses(store) == pytest.approx(expected, abs=2e-3)


TEXT = "The student reads what the teacher wrote. " * 6


def test_a_paragraph_before_each_piece_of_a_text(
    settings: Settings, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings |= {"data": [TEXT], "teacher_system": SYSTEM, "max_length": 40}
    logitstore.dump(**settings)
    store = logitstore.open(settings["out"])
    assert len(store) > 1
    before = plain(chat_tokenizer, f"{SYSTEM}\n\n")
    for one in store:
        own = one.document.input_ids_L.tolist()
        places = [place + len(before) for place in range(1, len(own))]
        expected = losses(settings["teacher"], [*before, *own], places)
        assert -one.targets.label_logprob_R == pytest.approx(expected, abs=2e-3)


def tokens_record(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """What a model answered, as token ids."""
    prompt = plain(tokenizer, rendered(tokenizer, CHAT[:1], prompt=True))
    answer = plain(tokenizer, "reads the text once<|im_end|>")
    ids = [*prompt, *answer]
    return {"input_ids": ids, "loss_mask": [0] * len(prompt) + [1] * len(answer), **more}


@pytest.mark.parametrize("given", ["prompt", "teacher_messages"])
def test_answers_in_tokens_behind_the_teachers_prompt(
    settings: Settings, chat_tokenizer: PreTrainedTokenizerFast, given: str
) -> None:
    system = {"role": "system", "content": SYSTEM}
    if given == "prompt":
        settings["teacher_system"] = SYSTEM
        record = tokens_record(chat_tokenizer, prompt=json.dumps(CHAT[:1]))
    else:
        record = tokens_record(chat_tokenizer, teacher_messages=[system, CHAT[0]])
    logitstore.dump(**settings, data=[record])
    ids, places = answers(chat_tokenizer, [system], CHAT[:2])
    expected = losses(settings["teacher"], ids, places)
    store = logitstore.open(settings["out"])
    assert store[0].document.input_ids_L.tolist() == record["input_ids"]
    assert stored_losses(store) == pytest.approx(expected, abs=2e-3)


def test_tokens_whose_prompt_is_another_or_unknown_are_refused(
    settings: Settings, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings["teacher_system"] = SYSTEM
    bare = tokens_record(chat_tokenizer)
    with pytest.raises(CorpusError, match="a field prompt or teacher_messages does"):
        logitstore.dump(**settings, data=[bare])
    other = tokens_record(chat_tokenizer, prompt=json.dumps(CHAT[2:3]))
    with pytest.raises(CorpusError, match="not those of the field prompt"):
        logitstore.dump(**settings, data=[other])


def other_answer(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*chat[:-1], {"role": "assistant", "content": "reads nothing"}]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (other_answer, "the answer has other tokens in the text that the teacher reads"),
        (lambda chat: chat[2:], "the answer has other tokens in the text that the teacher reads"),
        (lambda chat: [{"role": "user"}], "message 0 of teacher_messages has no content"),
        (lambda chat: "no chat", "teacher_messages is a string that is no JSON"),
        (lambda chat: [], "teacher_messages is no chat"),
    ],
)
def test_teacher_messages_of_another_answer_are_refused(
    settings: Settings, change: Callable[[list[dict[str, Any]]], object], problem: str
) -> None:
    record = {"messages": CHAT, "teacher_messages": change(CHAT)}
    with pytest.raises(CorpusError, match=f"memory:1: {problem}"):
        logitstore.dump(**settings, data=[record])
    # And where such a record comes late, behind those that were looked at.
    late = [{"messages": CHAT, "teacher_messages": [HINT, *CHAT]}] * 6 + [record]
    summary = logitstore.dump(**settings, data=late, skip_bad=True)
    assert (summary.documents, summary.skipped) == (6, 1)


def test_messages_for_the_teacher_that_come_late_are_refused(settings: Settings) -> None:
    late = {"messages": CHAT, "teacher_messages": [HINT, *CHAT]}
    with pytest.raises(CorpusError, match=r"memory:8: .*the first records of the corpus have none"):
        logitstore.dump(**settings, data=[{"messages": CHAT}] * 7 + [late])


def test_what_exceeds_the_teachers_context_is_refused_by_name(settings: Settings) -> None:
    long = " ".join([SYSTEM] * 30)
    settings["data"] = [{"messages": CHAT}]
    with pytest.raises(SettingError, match="teacher_system is longer than the teacher's context"):
        logitstore.dump(**settings, teacher_system=" ".join([long] * 10))
    longest = " ".join(["reads what the teacher wrote."] * 32)
    chat = [HINT, {"role": "user", "content": longest}, *CHAT[1:]]
    record = {"messages": CHAT, "teacher_messages": chat}
    with pytest.raises(CorpusError, match=r"longer than its context.*allowed: up to 256"):
        logitstore.dump(**settings | {"data": [record]})


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("prompt.txt", "there is no such file"),
        (" \n", "is empty"),
        ("missing", "there is no such file"),
    ],
)
def test_a_file_that_is_not_there_is_no_system_prompt(
    settings: Settings, given: str, problem: str
) -> None:
    with pytest.raises(SettingError, match=problem):
        logitstore.dump(**settings, data=[TEXT], teacher_system=given)
    assert not settings["out"].exists()


def test_another_system_prompt_is_another_store(settings: Settings) -> None:
    settings["data"] = [{"messages": CHAT}]
    logitstore.dump(**settings, teacher_system=SYSTEM)
    for other in ({}, {"teacher_system": "Another one."}):
        with pytest.raises(SpecError, match="teacher_system"):
            logitstore.dump(**settings, **other)


@pytest.mark.parametrize(
    ("record", "system"),
    [
        ({"messages": CHAT}, SYSTEM),
        ({"messages": CHAT, "teacher_messages": [HINT, *CHAT]}, None),
        ({"text": TEXT}, SYSTEM),
    ],
)
def test_an_audit_reads_what_the_teacher_read(
    settings: Settings, record: dict[str, Any], system: str | None
) -> None:
    data = [record] * 5
    logitstore.dump(**settings, data=data, teacher_system=system, max_length=48)
    audit = {"store": settings["out"], "teacher": settings["teacher"]}
    found = logitstore.audit(**audit, data=data, teacher_system=system)
    assert found["ok"], found["faults"]
    assert found["kl"] < 1e-4
    with pytest.raises(SettingError, match=r"Give (it|the corpus of the dump) with"):
        logitstore.audit(**audit, teacher_system=system)
    with pytest.raises(SettingError, match="system prompt"):
        logitstore.audit(**audit, data=data, teacher_system="Another one.")
    changed = [{**record, "messages": other_answer(CHAT)} if "messages" in record else TEXT[1:]]
    with pytest.raises(CorpusError, match="changed since the plan was made"):
        logitstore.audit(**audit, data=changed * 5, teacher_system=system)


def test_an_audit_without_use_for_a_corpus_says_so(settings: Settings) -> None:
    data = [{"messages": CHAT}]
    logitstore.dump(**settings, data=data)
    audit = {"store": settings["out"], "teacher": settings["teacher"]}
    with pytest.raises(SettingError, match=r"read its documents alone.*Leave out data"):
        logitstore.audit(**audit, data=data)
    with pytest.raises(SettingError, match="read no system prompt"):
        logitstore.audit(**audit, teacher_system=SYSTEM)


def test_a_document_refuses_a_teachers_text_of_other_tokens() -> None:
    ids_L, counted_L = np.arange(4, dtype=np.uint32), np.array([False, True, False, True])
    text = TeacherText(input_ids_M=ids_L[::-1], counted_M=counted_L)
    with pytest.raises(CorruptionError, match="the same counted tokens"):
        Document(
            id=b"0" * 16,
            record=0,
            piece=0,
            input_ids_L=ids_L,
            counted_L=counted_L,
            teacher_text=text,
        )


def test_estimate_and_tune_read_what_the_teacher_reads(settings: Settings) -> None:
    settings |= {"data": [{"messages": CHAT}] * 40, "teacher_system": SYSTEM}
    del settings["out"]
    found = logitstore.estimate(**settings)
    alone = logitstore.estimate(**settings | {"teacher_system": None})
    assert found.targets == alone.targets
    assert found.bytes != alone.bytes
