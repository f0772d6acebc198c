"""Records as prompts: every shape without its answer, and what asks nothing is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.corpus.corpus import open_corpus
from logitstore.corpus.fields import Fields
from logitstore.corpus.prompts import PROMPT_SHAPES
from logitstore.corpus.text_rules import TextRules
from logitstore.errors import CorpusError
from logitstore.generation.prompts import Prompt, PromptReader
from tests.chat_templates import CHATML, THINKING

ASKED = [{"role": "user", "content": "Why?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "So."}]


def _read(
    tokenizer: Any, record: Any, *, skip_bad: bool = False, room: int | None = None, **fields: Any
) -> tuple[list[Prompt], PromptReader]:
    reader = PromptReader(
        tokenizer, rules=TextRules(max_length=1 << 20), room=room, skip_bad=skip_bad
    )
    corpus = open_corpus([record], fields=Fields(shapes=PROMPT_SHAPES, **fields))
    (unit,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    return reader.prompts(corpus.read(unit, skip_bad=skip_bad)), reader


@pytest.fixture
def chat_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Any:
    changed = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    )
    changed.chat_template = CHATML
    return changed


@pytest.mark.parametrize(
    ("record", "replaced"),
    [
        ({"prompt": "Why?"}, False),
        ({"prompt": "Why?", "completion": "So."}, True),
        ({"prompt": ASKED, "response": "So."}, True),
        ({"prompt": ASKED}, False),
        ({"messages": ASKED}, False),
        ({"messages": ANSWERED}, True),
        ({"messages": json.dumps(ANSWERED)}, True),
        ({"conversations": [{"from": "human", "value": "Why?"}]}, False),
        (
            {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "."}]},
            True,
        ),
        ({"instruction": "Why?"}, False),
        ({"instruction": "Why?", "input": "", "output": "So."}, True),
        ({"turns": ["Why?"]}, False),
        ({"question": "Why?"}, False),
        ({"chosen": ANSWERED, "rejected": ANSWERED}, True),
        ({"prompt": "Why?", "chosen": "So.", "rejected": "."}, True),
    ],
)
def test_a_record_is_its_prompt_with_the_templates_own_words(
    chat_tokenizer: Any, record: dict[str, Any], replaced: bool
) -> None:
    (prompt,), reader = _read(chat_tokenizer, record)
    wanted = chat_tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert wanted.endswith("assistant\n")
    assert chat_tokenizer.decode(prompt.input_ids_L.tolist()) == wanted
    assert reader.replaced == replaced


def test_thoughts_are_asked_for_as_the_template_does_by_itself(chat_tokenizer: Any) -> None:
    chat_tokenizer.chat_template = THINKING
    (prompt,), _ = _read(chat_tokenizer, {"prompt": "Why?"})
    assert "<think>" not in chat_tokenizer.decode(prompt.input_ids_L.tolist())
    silent = {"messages": ASKED, "chat_template_kwargs": {"enable_thinking": False}}
    (prompt,), _ = _read(chat_tokenizer, silent)
    assert chat_tokenizer.decode(prompt.input_ids_L.tolist()).endswith("</think>\n\n")


def test_without_a_template_a_prompt_is_plain_text_that_begins_as_texts_do(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    (prompt,), _ = _read(tokenizer, {"prompt": "Why? ", "completion": "So."})
    assert prompt.input_ids_L.tolist() == tokenizer("Why? ")["input_ids"]
    (text,), _ = _read(tokenizer, {"text": "Once upon"})
    assert text.input_ids_L.tolist() == tokenizer("Once upon")["input_ids"]


@pytest.mark.parametrize(
    ("record", "left"),
    [
        ({"input_ids": [5, 6, 7, 8], "loss_mask": [0, 0, 1, 1]}, [5, 6]),
        ({"input_ids": [5, 6, 7, 8, 9], "loss_mask": [0, 1, 0, 1, 0]}, [5, 6, 7]),
        ({"input_ids": [5, 6, 7], "labels": [-100, -100, 7]}, [5, 6]),
        ({"input_ids": [5, 6, 7]}, [5, 6, 7]),
        ({"input_ids": [5, 6, 7], "loss_mask": [0, 0, 0]}, [5, 6, 7]),
    ],
)
def test_tokens_stop_before_the_last_run_that_counts(
    tokenizer: PreTrainedTokenizerFast, record: dict[str, Any], left: list[int]
) -> None:
    (prompt,), _ = _read(tokenizer, record)
    assert prompt.input_ids_L.tolist() == left


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "does not end with words"),
        ({"messages": ANSWERED[1:]}, "does not end with words"),
        ({"messages": [*ANSWERED, ANSWERED[1]]}, "does not end with words"),
        ({"turns": []}, "turns are no list of texts"),
        ({"turns": ["Why?", ""]}, "turns are no list of texts"),
        ({"prompt": ""}, "prompt is neither a text nor messages"),
        ({"input_ids": [5, 6], "loss_mask": [1, 1]}, "no token of input_ids stands before"),
        ({"messages": [{"role": "user", "content": "Why?", "mood": "sad"}]}, "leaves out mood"),
        ({"other": 1}, "no field of a known shape"),
    ],
)
def test_what_asks_nothing_is_refused_by_name_and_skipped_on_request(
    chat_tokenizer: Any, record: dict[str, Any], told: str
) -> None:
    with pytest.raises(CorpusError, match=told) as caught:
        _read(chat_tokenizer, record)
    assert "memory:1" in str(caught.value)
    prompts, _ = _read(chat_tokenizer, record, skip_bad=True)
    assert prompts == []


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(chat_tokenizer: Any) -> None:
    with pytest.raises(CorpusError, match=r"memory:1: the prompt leaves too little .*up to 5"):
        _read(chat_tokenizer, {"prompt": "Why?"}, room=5)
    assert _read(chat_tokenizer, {"prompt": "Why?"}, room=5, skip_bad=True)[1].skipped == 1


def test_the_next_turn_follows_the_answer_that_was_given(chat_tokenizer: Any) -> None:
    (prompt,), reader = _read(chat_tokenizer, {"turns": ["Why?", "And then?"]})
    answer = chat_tokenizer("So.")["input_ids"]
    following = reader.next_turn(prompt, answer)
    assert following is not None
    wanted = [*ANSWERED, {"role": "user", "content": "And then?"}]
    assert following.turn == 1
    assert chat_tokenizer.decode(following.input_ids_L.tolist()) == (
        chat_tokenizer.apply_chat_template(wanted, add_generation_prompt=True, tokenize=False)
    )
    assert reader.next_turn(following, answer) is None
    with pytest.raises(CorpusError, match="empty or holds special tokens"):
        reader.next_turn(prompt, [])


def test_a_table_of_prompts_needs_no_answers(chat_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,mark\nWhy?,1\nHow?,2\n")
    corpus = open_corpus(path, fields=Fields(shapes=PROMPT_SHAPES))
    (unit,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    reader = PromptReader(chat_tokenizer, rules=TextRules(max_length=99), room=None, skip_bad=False)
    assert len(reader.prompts(corpus.read(unit, skip_bad=False))) == 2
