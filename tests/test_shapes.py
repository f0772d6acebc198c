"""Shapes: what people have on their disks, as files of each kind, becomes what it says."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitstore.corpus.content import Content
from logitstore.corpus.corpus import Corpus, open_corpus
from logitstore.corpus.fields import Fields
from logitstore.corpus.shapes import SHAPES
from logitstore.errors import CorpusError

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4."}
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Ostend"}}}
TOOLS = [{"type": "function", "function": {"name": "tide"}}]

# Shape -> a record, and the chat that it is.
CHATS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "messages": ({"messages": [USER, ANSWER]}, [USER, ANSWER]),
    "messages as JSON": ({"messages": json.dumps([USER, ANSWER])}, [USER, ANSWER]),
    "sharegpt": (
        {
            "system": "Count.",
            "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4."}],
        },
        [{"role": "system", "content": "Count."}, USER, ANSWER],
    ),
    "sharegpt of messages": ({"conversations": [USER, ANSWER]}, [USER, ANSWER]),
    "sharegpt with calls": (
        {
            "conversations": [
                {"from": "human", "value": "2+2?"},
                {"from": "function_call", "value": json.dumps(CALL["function"])},
                {"from": "observation", "value": "3.9 m"},
                {"from": "gpt", "value": "4."},
            ],
            "tools": json.dumps(TOOLS),
        },
        [
            USER,
            {"role": "assistant", "tool_calls": [CALL], "content": None},
            {"role": "tool", "content": "3.9 m"},
            ANSWER,
        ],
    ),
    "alpaca": ({"instruction": "2+2?", "input": "", "output": "4."}, [USER, ANSWER]),
    "alpaca, all fields": (
        {
            "instruction": "Add",
            "input": "2+2?",
            "output": "4.",
            "system": "Count.",
            "history": [["Hi", "Ho"]],
        },
        [
            {"role": "system", "content": "Count."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Ho"},
            {"role": "user", "content": "Add\n2+2?"},
            ANSWER,
        ],
    ),
    "completion": ({"prompt": "2+2?", "completion": "4."}, [USER, ANSWER]),
    "completion as response": ({"prompt": "2+2?", "response": "4."}, [USER, ANSWER]),
    "completion of messages": ({"prompt": [USER], "completion": [ANSWER]}, [USER, ANSWER]),
    "preference": (
        {"prompt": "2+2?", "chosen": "4.", "rejected": "5."},
        [USER, ANSWER],
    ),
    "preference of chats": (
        {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "5."}]},
        [USER, ANSWER],
    ),
    "preference of messages": (
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "5"}]},
        [USER, ANSWER],
    ),
    "preference of turns": (
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4."},
            "rejected": {"from": "gpt", "value": "5."},
        },
        [USER, ANSWER],
    ),
}


def contents(corpus: Corpus, *, skip_bad: bool = False) -> list[Content]:
    plan = corpus.plan(unit_bytes=100, limit=None)
    return [
        record.content for unit in plan.units for record in corpus.read(unit, skip_bad=skip_bad)
    ]


def content(record: object, fields: Fields | None = None) -> Content:
    (found,) = contents(open_corpus([record], fields=fields))
    return found


@pytest.mark.parametrize("name", CHATS)
def test_chats_of_every_shape(name: str) -> None:
    record, messages = CHATS[name]
    found = content(record)
    assert found.chat is not None
    assert found.chat.messages == messages
    assert found.chat.tools == (TOOLS if "tools" in record else None)


def test_every_shape_is_tried() -> None:
    tried = {name.split(",")[0].split(" ")[0] for name in CHATS} | {"text", "tokens"}
    assert tried == set(SHAPES)


@pytest.mark.parametrize(
    ("record", "text", "answer"),
    [
        ({"prompt": "2+2=", "completion": "4"}, "2+2=4", "4"),
        ({"instruction": "Add", "input": "2+2", "output": "4"}, "Add\n2+2\n4", "4"),
        ({"prompt": "2+2=", "chosen": "4", "rejected": "5"}, "2+2=4", "4"),
    ],
)
def test_a_prompt_and_an_answer_are_a_text_too(
    record: dict[str, Any], text: str, answer: str
) -> None:
    found = content(record)
    assert found.text == text
    assert text[found.answer :] == answer


@pytest.mark.parametrize(
    ("record", "ids", "counted"),
    [
        ({"input_ids": [5, 6, 7]}, [5, 6, 7], [True, True, True]),
        ({"input_ids": [5, 6, 7], "loss_mask": [0, 1, 1]}, [5, 6, 7], [False, True, True]),
        ({"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, [5, 6, 7], [False, True, True]),
        ({"input_ids": [5, 0, 1], "labels": [-100, 0, 1]}, [5, 0, 1], [False, True, True]),
        ({"input_ids": [5, 6], "assistant_masks": [0, 1]}, [5, 6], [False, True]),
        ({"input_ids": [5, 6], "attention_mask": [1, 1]}, [5, 6], [True, True]),
    ],
)
def test_tokens_are_taken_as_they_are(
    record: dict[str, Any], ids: list[int], counted: list[bool]
) -> None:
    found = content(record).tokens
    assert found is not None
    assert (found.ids, found.counted) == (ids, counted)


def test_tokens_in_fields_of_other_names() -> None:
    found = content({"ids": [5, 6], "mask": [0, 1]}, Fields(tokens="ids", mask="mask")).tokens
    assert found is not None
    assert (found.ids, found.counted) == ([5, 6], [False, True])


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "Why?"}, "a prompt and no answer.*logitstore generate"),
        ({"question_id": 7, "turns": ["a", "b"]}, "a prompt and no answer"),
        ({"messages": [USER]}, "a prompt and no answer"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "a prompt and no answer"),
        ({"instruction": "a", "output": ""}, "a prompt and no answer"),
        ({"prompt": "a", "completion": None}, "a prompt and no answer"),
        ({"conversations": [{"from": "alien", "value": "a"}]}, "said by nobody known.*alien"),
        ({"chosen": "a", "rejected": "b"}, "chosen has no prompt before it"),
        ({"input_ids": [1, -1]}, "holds what is no token.*-1"),
        ({"input_ids": [1, 1 << 32]}, "holds what is no token.*4294967296"),
        ({"input_ids": [1, True]}, "holds what is no token.*True"),
        ({"input_ids": [1, 2], "loss_mask": [1]}, "differ in length"),
        ({"input_ids": [1, 2], "labels": [2, -100]}, "differ at place 0"),
        ({"input_ids": []}, "input_ids is no list"),
        ({"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0]}, "hides tokens.*1 hidden of 3"),
        ({"history": "a", "instruction": "b", "output": "c"}, "history is no list of pairs"),
        ({"history": 0.5, "instruction": "b", "output": "c"}, "history is no list of pairs"),
        ({"prompt": "a", "completion": [USER]}, "completion does not end with an answer"),
        ({"prompt": "a", "completion": [{"role": "user"}]}, "does not end with an answer"),
    ],
)
def test_what_a_shape_lacks_is_told(record: dict[str, Any], problem: str) -> None:
    with pytest.raises(CorpusError, match=f"memory:1: .*{problem}"):
        content(record)


def test_a_shape_that_was_named_is_the_only_one() -> None:
    both = {"text": "a", "prompt": "2+2?", "completion": "4."}
    assert content(both).text == "a"
    assert content(both, Fields(shape="completion")).chat is not None
    with pytest.raises(CorpusError, match=r"no fields of records alpaca.*Take records text"):
        content(both, Fields(shape="alpaca"))
    with pytest.raises(CorpusError, match=r"no field .ids.*Name one with tokens_field"):
        content(both, Fields(tokens="ids"))
    rows = {"input_ids": [1, 2], "lossmask": [0, 1]}
    with pytest.raises(CorpusError, match=r"Take mask_field lossmask"):
        content(rows, Fields(tokens="input_ids", mask="loss_mask"))


# --- Files --------------------------------------------------------------------------------------

ROWS = [
    {"prompt": 'Say "hi",\nplease', "completion": "hi"},
    {"prompt": "Again é 🙂", "completion": "hi\n\nho"},
    {"prompt": "3", "completion": "three"},
]


def _delimited(rows: list[dict[str, str]], delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["prompt", "completion"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _files(rows: list[dict[str, str]]) -> dict[str, bytes]:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    indented = json.dumps(rows, indent=2, ensure_ascii=False).encode()
    return {
        "a.jsonl": lines,
        "a.ndjson": b"\n" + lines.replace(b"\n", b"\r\n\r\n"),
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.bz2": bz2.compress(lines),
        "lines.json": lines,
        "a.json": json.dumps(rows).encode(),
        "indented.json": b"\xef\xbb\xbf" + indented,
        "a.json.gz": gzip.compress(json.dumps(rows, indent=1).encode()),
        "a.csv": _delimited(rows, ","),
        "a.tsv": _delimited(rows, "\t"),
        "a.csv.gz": gzip.compress(b"\xef\xbb\xbf" + _delimited(rows, ",")),
    }


def write_file(folder: Path, name: str, rows: list[dict[str, str]] = ROWS) -> Path:
    path = folder / name
    files = _files(rows)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".zst"):
        with pa.output_stream(path, compression="zstd") as file:
            file.write(files["a.jsonl"])
    elif name.endswith(".arrow"):
        table = pa.Table.from_pylist(rows)
        opened = pa.ipc.new_stream if name.startswith("stream") else pa.ipc.new_file
        with opened(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        path.write_bytes(files[name])
    return path


ALL_FILES = [*_files(ROWS), "a.jsonl.zst", "a.parquet", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_kind_of_file_holds_the_same_records(tmp_path: Path, name: str) -> None:
    """In units of one record, read in order and out of it."""
    path = write_file(tmp_path, name)
    corpus = open_corpus(path)
    units = corpus.plan(unit_bytes=1, limit=None).units
    assert len(units) == len(ROWS)
    for number in (0, 1, 2, 0, 2, 1):
        (record,) = open_corpus(path).read(units[number], skip_bad=False)
        (again,) = corpus.read(units[number], skip_bad=False)
        assert again == record
        assert record.content.text == ROWS[number]["prompt"] + ROWS[number]["completion"]
        assert record.record == number
    (whole,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    assert len(list(corpus.read(whole, skip_bad=False))) == len(ROWS)


PLAIN_FILES = [name for name in ALL_FILES if not name.endswith((".gz", ".bz2", ".zst"))]


@pytest.mark.parametrize("more", [ROWS[1], {"prompt": "4", "completion": "x" * 5000}])
@pytest.mark.parametrize("name", PLAIN_FILES)
def test_a_file_that_has_grown_is_told(tmp_path: Path, name: str, more: dict[str, str]) -> None:
    plan = open_corpus(write_file(tmp_path, name)).plan(unit_bytes=1, limit=None)
    open_corpus(tmp_path / name).compare(plan, limit=None)
    write_file(tmp_path, name, [*ROWS, more])
    with pytest.raises(CorpusError, match=rf"{name}.*has grown since the plan was made"):
        open_corpus(tmp_path / name).compare(plan, limit=None)
    open_corpus(tmp_path / name).compare(plan, limit=len(ROWS))
    with pytest.raises(CorpusError, match="has grown"):  # the plan has not reached the limit
        open_corpus(tmp_path / name).compare(plan, limit=len(ROWS) + 1)


def test_a_folder_that_has_grown_is_told(tmp_path: Path) -> None:
    """Also where it is not the last file, or one that was not there."""
    for name in ("a.jsonl", "a.ndjson"):
        write_file(tmp_path, name)
    plan = open_corpus(tmp_path).plan(unit_bytes=1, limit=None)
    write_file(tmp_path, "a.jsonl", [*ROWS, ROWS[0]])
    with pytest.raises(CorpusError, match=r"a\.jsonl, behind \d+: the corpus has grown"):
        open_corpus(tmp_path).compare(plan, limit=None)
    write_file(tmp_path, "a.jsonl")
    open_corpus(tmp_path).compare(plan, limit=None)
    write_file(tmp_path, "lines.json")
    with pytest.raises(CorpusError, match=r"lines\.json: the corpus has grown"):
        open_corpus(tmp_path).compare(plan, limit=None)


@pytest.mark.parametrize(
    ("name", "lines"),
    [("a.jsonl", [1, 2, 3]), ("a.csv", [2, 4, 7]), ("indented.json", [2, 6, 10])],
)
def test_records_know_their_lines(tmp_path: Path, name: str, lines: list[int]) -> None:
    corpus = open_corpus(write_file(tmp_path, name))
    (unit,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    assert [record.line for record in corpus.read(unit, skip_bad=False)] == lines


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.json", b'[{"text": "a"}, {"text": "b"', "no JSON"),
        ("a.json", b'[{"text": "a"},', "the array does not end"),
        ("a.json", b'[{"text": "a"}, oops]', r"a\.json:1: .*no JSON"),
        ("a.json", b"[1, 2]", "the element of the array is no object"),
        ("a.json", b'{"version": 1,\n "data": []}', "no JSON"),
        ("a.json", b"[]", "there is nothing in it"),
        ("a.csv", b'text\n"a"\n"b,c\nd', "cannot be read: unexpected end of data"),
        ("a.csv", b"a,b\n1\n", "another number of values"),
        ("a.csv", b"a,a\n1,2\n", "several columns have one name"),
        ("a.csv", b"", "there is nothing in it"),
        ("a.csv", b"text\n", "there is nothing in it"),
        ("a.csv", b"text\ncaf\xe9\n", r"a\.csv:2: .*no UTF-8"),
        ("a.jsonl.zst", b"(\xb5/\xfd oops", "cannot be read"),
        ("a.jsonl.bz2", bz2.compress(b"{}" * 99)[:-9], "cannot be read"),
        ("a.arrow", b"ARROW1 and no more", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, name: str, data: bytes, problem: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=problem):
        contents(open_corpus(path))


def test_blank_lines_are_no_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": "a"}\n \r\n\n{"text": "b"}\n\n\n')
    corpus = open_corpus(path)
    for unit_bytes in (1, 1 << 20):
        units = corpus.plan(unit_bytes=unit_bytes, limit=None).units
        found = [record for unit in units for record in corpus.read(unit, skip_bad=False)]
        assert [(one.content.text, one.line, one.record) for one in found] == [
            ("a", 2, 0),
            ("b", 5, 1),
        ]


def test_patterns_and_several_files_are_one_corpus(tmp_path: Path) -> None:
    for number, name in enumerate(("x/a.jsonl", "x/deep/b.jsonl", "y/a.jsonl", "x/notes.md")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": f"number {number}"}) + "\n")
    assert open_corpus(str(tmp_path / "*/a.jsonl")).sources == ("x/a.jsonl", "y/a.jsonl")
    assert open_corpus(str(tmp_path / "**/*.jsonl")).sources == (
        "x/a.jsonl",
        "x/deep/b.jsonl",
        "y/a.jsonl",
    )
    several = open_corpus([tmp_path / "y", tmp_path / "x" / "a.jsonl"])
    assert several.sources == ("y/a.jsonl", "x/a.jsonl")
    folder = open_corpus(tmp_path)
    assert folder.unread == ("x/notes.md",)
    assert len(folder.sources) == 3
    with pytest.raises(CorpusError, match="no file matches the pattern"):
        open_corpus(str(tmp_path / "*.parquet"))
    with pytest.raises(CorpusError, match=r"matches the pattern can be read \(found notes.md"):
        open_corpus(str(tmp_path / "x/*.md"))


def test_nulls_that_arrow_invents_are_no_part_of_a_chat(tmp_path: Path) -> None:
    """JSONL and Parquet of the same chats say the same, also deep inside a tool call."""
    rows = [
        {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}}
                    ],
                },
            ],
            "tools": TOOLS,
        },
    ]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows, pa.Table.from_pylist(rows[::-1]).schema), table)
    found, other = contents(open_corpus(lines)), contents(open_corpus(table))
    assert [one.chat.tools for one in found if one.chat] == [None, TOOLS]
    for one, two in zip(found, other, strict=True):
        assert one.chat is not None
        assert two.chat is not None
        assert json.dumps(one.chat.messages) == json.dumps(two.chat.messages)
        assert one.chat.tools == two.chat.tools
