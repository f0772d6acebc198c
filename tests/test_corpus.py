"""The corpus: whatever is cut comes back whole, whatever is broken is named."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logitstore.corpus.content import Record
from logitstore.corpus.corpus import Corpus, open_corpus
from logitstore.corpus.fields import Fields
from logitstore.corpus.sources import TextFile
from logitstore.corpus.tables import HubTable, TableSource
from logitstore.errors import CorpusError, SettingError
from logitstore.format.plan import Plan
from tests.peak_memory import peak_memory

PARAGRAPH = "A line of some forty characters of text.\nAnother line, no longer than that one.\n\n"
CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def write_lines(path: Path, rows: list[Any]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return write(path, gzip.compress(text.encode()) if path.suffix == ".gz" else text)


def write_table(path: Path, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def records(
    corpus: Corpus, *, unit_bytes: int = 1 << 20, limit: int | None = None, skip_bad: bool = False
) -> list[Record]:
    plan = corpus.plan(unit_bytes=unit_bytes, limit=limit)
    return [record for unit in plan.units for record in corpus.read(unit, skip_bad=skip_bad)]


def said(record: Record) -> list[dict[str, Any]] | None:
    return None if record.content.chat is None else record.content.chat.messages


def texts(corpus: Corpus, **options: Any) -> list[str | None]:
    return [record.content.text for record in records(corpus, **options)]


# What is cut comes back whole.


@pytest.fixture(params=["rows.jsonl", "rows.jsonl.gz", "rows.parquet", "hub"])
def numbered(request: pytest.FixtureRequest, tmp_path: Path) -> Corpus:
    """Three thousand short texts, in every form that has rows."""
    rows = [f"text number {number} é" for number in range(3000)]
    if request.param == "hub":
        table = HubTable(datasets.Dataset.from_dict({"id": list(range(3000)), "text": rows}))
        return Corpus([TableSource(name="train", fields=Fields(), table=table)])
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        return open_corpus(write_table(path, {"id": range(3000), "text": rows}, row_group_size=700))
    return open_corpus(write_lines(path, [{"text": row, "id": 1} for row in rows]))


@pytest.mark.parametrize("unit_bytes", [1, 5000, 1 << 20])
def test_units_hold_every_row_once_and_in_order(numbered: Corpus, unit_bytes: int) -> None:
    found = records(numbered, unit_bytes=unit_bytes, limit=None if unit_bytes > 1 else 50)
    assert [record.content.text for record in found] == [
        f"text number {number} é" for number in range(len(found))
    ]
    assert len(found) == (3000 if unit_bytes > 1 else 50)
    assert [record.record for record in found] == list(range(len(found)))
    assert [record.line for record in found] == list(range(1, len(found) + 1))
    assert all(record.ends and record.content.chat is None for record in found)
    assert {record.source for record in found} == set(numbered.sources)


def test_units_meet_and_are_filled(numbered: Corpus) -> None:
    units = numbered.plan(unit_bytes=5000, limit=None).units
    assert [unit.name for unit in units] == [f"{number:06d}" for number in range(len(units))]
    assert [unit.start for unit in units] == [0, *(unit.stop for unit in units[:-1])]
    assert sum(unit.records for unit in units) == 3000
    assert 10 < len(units) < 40


def test_units_can_be_read_in_any_order_and_twice(numbered: Corpus) -> None:
    units = numbered.plan(unit_bytes=5000, limit=None).units
    forward = {unit.name: list(numbered.read(unit, skip_bad=False)) for unit in units}
    for unit in [*reversed(units), *units[::3]]:
        assert list(numbered.read(unit, skip_bad=False)) == forward[unit.name]


def test_plan_is_a_function_of_the_corpus_and_survives_json(numbered: Corpus) -> None:
    plan = numbered.plan(unit_bytes=5000, limit=1234)
    assert plan == numbered.plan(unit_bytes=5000, limit=1234)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())), place="plan.json")
    assert again == plan
    assert sum(unit.records for unit in plan.units) == 1234


def test_gzip_has_the_plan_of_the_plain_file(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}"} for number in range(500)]
    plain = open_corpus(write_lines(tmp_path / "a.jsonl", rows)).plan(unit_bytes=999, limit=None)
    packed = open_corpus(write_lines(tmp_path / "a.jsonl.gz", rows))
    assert [replace(unit, source="a.jsonl.gz") for unit in plain.units] == list(
        packed.plan(unit_bytes=999, limit=None).units
    )


def test_hub_has_the_hashes_of_the_same_rows_in_parquet(tmp_path: Path) -> None:
    rows = [f"row {number}" for number in range(2500)]
    parquet = open_corpus(write_table(tmp_path / "a.parquet", {"text": rows}, row_group_size=311))
    table = HubTable(datasets.Dataset.from_dict({"text": rows}))
    hub = Corpus([TableSource(name="a.parquet", fields=Fields(), table=table)])
    assert hub.plan(unit_bytes=3000, limit=None) == parquet.plan(unit_bytes=3000, limit=None)


def test_line_unit_hash_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    (unit,) = open_corpus(path).plan(unit_bytes=1 << 20, limit=None).units
    assert unit.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_table_unit_hash_is_that_of_its_json_lines(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"text": ["one", "é"]})
    (unit,) = open_corpus(path).plan(unit_bytes=1 << 20, limit=None).units
    assert unit.sha256 == hashlib.sha256(b'"one"\n"\\u00e9"\n').hexdigest()


def test_folder_is_read_in_order_of_paths_and_limit_counts_through_it(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", [{"text": "three"}, {"text": "four"}])
    write_lines(tmp_path / "a" / "deep.jsonl", [{"text": "two"}])
    write(tmp_path / "a" / "1.txt", "one")
    write(tmp_path / "notes.md", "not part of it")
    write(tmp_path / ".cache" / "hidden.txt", "not part of it")
    corpus = open_corpus(str(tmp_path))
    assert corpus.sources == ("a/1.txt", "a/deep.jsonl", "b.jsonl")
    assert texts(corpus) == ["one", "two", "three", "four"]
    assert texts(corpus, limit=3) == ["one", "two", "three"]
    assert len(corpus.plan(unit_bytes=1 << 20, limit=2).units) == 2


# Running text.


def test_text_falls_into_paragraph_sections_of_which_the_last_ends(tmp_path: Path) -> None:
    content = PARAGRAPH * 2000
    found = records(open_corpus(write(tmp_path / "a.txt", content)))
    assert "".join(record.content.text or "" for record in found) == content
    assert [record.ends for record in found] == [False] * (len(found) - 1) + [True]
    assert all(record.content.text.endswith("\n\n") for record in found if record.content.text)
    assert all(16 << 10 <= len(record.content.text or "") <= 33 << 10 for record in found[:-1])
    lines = content.split("\n")
    for record in found:
        assert (record.content.text or "").startswith(lines[record.line - 1] + "\n")


@pytest.mark.parametrize("unit_bytes", [1, 40_000, 100_000, 1 << 30])
def test_sections_do_not_depend_on_units(tmp_path: Path, unit_bytes: int) -> None:
    corpus = open_corpus(write(tmp_path / "a.txt", PARAGRAPH * 3000))
    assert records(corpus, unit_bytes=unit_bytes) == records(corpus, unit_bytes=1 << 30)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(
            st.sampled_from(
                ["\n", "\n\n\n", "x" * 900 + "\n", "word " * 5000, "é€😀" * 7000, " \r\n"]
            ),
            st.integers(1, 40),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_text_is_cut_the_same_alone_and_in_its_file(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[str, int]]
) -> None:
    data = "".join(piece * times for piece, times in pieces).encode()
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(data)
    source = TextFile(name="a.txt", path=path)
    whole = list(source.records())
    assert b"".join(raw.content for raw in whole) == data  # type: ignore[misc]
    assert [raw.ends for raw in whole] == [False] * (len(whole) - 1) + [True]
    starts = [sum(raw.size for raw in whole[:number]) for number in range(len(whole) + 1)]
    for first in range(len(whole)):
        last = min(first + 2, len(whole))
        assert source.slice(starts[first], starts[last]) == whole[first:last]
    for raw in whole:
        raw.content.decode()  # type: ignore[attr-defined]


def test_text_of_one_line_is_cut_at_spaces(tmp_path: Path) -> None:
    content = "many words in one line " * 20_000
    found = records(open_corpus(write(tmp_path / "a.txt", content.strip())), unit_bytes=100_000)
    assert "".join(record.content.text or "" for record in found) == content.strip()
    assert all(record.content.text.startswith(" ") for record in found[1:] if record.content.text)
    assert max(len(record.content.text or "") for record in found) <= 49 << 10


def test_text_without_spaces_is_cut_between_characters(tmp_path: Path) -> None:
    content = " " + "x€" * 30_000 + " " + "x" * 50_000
    found = texts(open_corpus(write(tmp_path / "a.txt", content)))
    assert "".join(text or "" for text in found) == content
    assert len(found) > 2


def test_blank_lines_stay_with_the_text_before_them(tmp_path: Path) -> None:
    last = texts(open_corpus(write(tmp_path / "a.txt", PARAGRAPH * 300 + "\n" * 50_000)))[-1]
    assert last is not None
    assert last.startswith("A line")
    assert last.endswith("one.\n\n" + "\n" * 50_000)


def test_byte_order_mark_and_carriage_returns_are_left_out(tmp_path: Path) -> None:
    text = open_corpus(write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo"))
    assert texts(text) == ["one\ntwo"]
    lines = open_corpus(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}'))
    assert texts(lines) == ["a", "b"]


def test_limit_takes_sections_and_the_text_does_not_end_there(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path / "a.txt", PARAGRAPH * 2000))
    assert [record.ends for record in records(corpus, limit=2)] == [False, False]


def test_planning_holds_little_of_a_large_file(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path / "a.txt", (PARAGRAPH * 500_000).replace("\n", " ")))
    with peak_memory() as peak:
        corpus.plan(unit_bytes=1 << 20, limit=None)
    assert peak.bytes < 10 << 20  # of 40 MB


# Fields.


def test_messages_are_taken_where_there_is_no_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"messages": CHAT, "id": 7}])
    (record,) = records(open_corpus(path))
    assert said(record) == CHAT
    assert record.content.text is None


def test_nulls_that_parquet_adds_to_messages_are_left_out(tmp_path: Path) -> None:
    calls = [{**CHAT[0], "tool": "x"}, CHAT[1]]
    path = write_table(tmp_path / "a.parquet", {"messages": pa.array([calls])})
    (record,) = records(open_corpus(path))
    assert said(record) == calls


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_named_field_is_the_only_one_that_counts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    row = {"text": "no", "messages": CHAT, "body": "yes", "talk": CHAT}
    if suffix == ".jsonl":
        write_lines(path, [row])
    else:
        write_table(path, {name: pa.array([value]) for name, value in row.items()})
    (text,) = records(open_corpus(str(path), fields=Fields(text="body")))
    (chat,) = records(open_corpus(str(path), fields=Fields(messages="talk")))
    assert (text.content.text, text.content.chat) == ("yes", None)
    assert (chat.content.text, said(chat)) == (None, CHAT)
    with pytest.raises(CorpusError, match=r"text_field or messages_field"):
        records(open_corpus(str(path)), skip_bad=True)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_missing_field_names_those_there_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl":
        write_lines(path, [{"body": "x", "id": 1}])
    else:
        write_table(path, {"body": ["x"], "id": [1]})
    with pytest.raises(CorpusError, match=r"no field of a known shape.*body, id"):
        records(open_corpus(str(path)))
    with pytest.raises(CorpusError, match=r"no field 'content'.*body, id.*Name one with"):
        records(open_corpus(str(path), fields=Fields(text="content")))
    with pytest.raises(CorpusError, match=r"no field 'bodyy'.*Take text_field body"):
        records(open_corpus(str(path), fields=Fields(text="bodyy")))


def test_a_column_of_numbers_is_no_text(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", {"text": [1, 2]})
    with pytest.raises(CorpusError, match=r"a\.parquet:1: text is no text \(found 1"):
        records(open_corpus(path))
    path = write_table(tmp_path / "b.parquet", {"messages": ["hello"]})
    with pytest.raises(CorpusError, match=r"b\.parquet:1: messages is a string that is no JSON"):
        records(open_corpus(path))


def test_dictionary_coded_text_is_text(tmp_path: Path) -> None:
    values = pa.array(["a", "b", "a"]).dictionary_encode()
    assert texts(open_corpus(write_table(tmp_path / "a.parquet", {"text": values}))) == [
        "a",
        "b",
        "a",
    ]


def test_fields_that_contradict_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "text")
    with pytest.raises(CorpusError, match="several fields are named"):
        open_corpus(path, fields=Fields(text="a", messages="b"))
    with pytest.raises(CorpusError, match="plain text has no fields"):
        open_corpus(path, fields=Fields(messages="b"))


def test_a_field_of_plain_text_alone_is_refused(tmp_path: Path) -> None:
    """Beside a file that has fields it counts for that one."""
    (tmp_path / "a.txt").write_text("a text\n")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(CorpusError, match=r"text_field has no effect.*found body"):
            open_corpus(path, fields=Fields(text="body"))
    (tmp_path / "b.jsonl").write_text('{"body": "another"}\n')
    assert len(records(open_corpus(tmp_path, fields=Fields(text="body")))) == 2


# Bad records.

BAD_LINES = {
    "no JSON": (b'{"text": "a', "no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "huge number": (b'{"text": ' + b"9" * 5000 + b"}", "no JSON"),
    "list": (b'["a"]', "no JSON object"),
    "no field": (b'{"body": "a"}', "no field of a known shape"),
    "number": (b'{"text": 3}', "text is no text .found 3"),
    "null": (b'{"text": null}', "text is no text .found None"),
    "empty text": (b'{"text": ""}', "text is empty"),
    "blank text": (b'{"text": " \\n"}', "text is empty"),
    "not UTF-8": (b'{"text": "caf\xe9"}', "no UTF-8 .found byte 0xe9"),
    "binary": (b"PK\x03\x04\x00\x00", "zero byte"),
    "zero": (b'{"text": "a\\u0000b"}', "zero byte"),
    "surrogate": (b'{"text": "\\ud800"}', "surrogate"),
    "no chat": (b'{"messages": "hi"}', "messages is a string that is no JSON"),
    "no message": (b'{"messages": []}', "messages is no chat"),
    "no content": (b'{"messages": [{"role": "user"}]}', "message 0 of messages has no content"),
    "no answer": (b'{"messages": [{"role": "user", "content": "a"}]}', "a prompt and no answer"),
    "no role": (b'{"messages": [{"content": "a"}]}', "message 0 has no role"),
    "chat surrogate": (b'{"messages": [{"role": "u", "content": "\\udc00"}]}', "surrogate"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, case: str) -> None:
    line, problem = BAD_LINES[case]
    corpus = open_corpus(
        write(tmp_path / "a.jsonl", b'{"text": "one"}\n' + line + b'\n{"text": "three"}\n')
    )
    with pytest.raises(CorpusError, match=rf"a\.jsonl:2: .*{problem}.*skip_bad"):
        records(corpus)
    found = records(corpus, skip_bad=True)
    assert [(record.content.text, record.record, record.line) for record in found] == [
        ("one", 0, 1),
        ("three", 2, 3),
    ]
    (unit,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    reader = corpus.read(unit, skip_bad=True)
    assert len(list(reader)) == 2
    assert reader.skipped == 1
    assert len(list(reader)) == 2
    assert reader.skipped == 1


def test_messages_of_errors_stay_short(tmp_path: Path) -> None:
    corpus = open_corpus(write_lines(tmp_path / "a.jsonl", [{"text": ["x" * 10_000]}]))
    with pytest.raises(CorpusError) as caught:
        records(corpus)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("bad", "problem"), [(b"\xff\xfe", "no UTF-8"), (b"\0", "zero byte")])
def test_bad_bytes_in_text_are_named_by_their_line(
    tmp_path: Path, bad: bytes, problem: str
) -> None:
    good = PARAGRAPH.encode() * 500
    corpus = open_corpus(write(tmp_path / "a.txt", good + b"fine\n" + bad + b"\n" + good))
    with pytest.raises(CorpusError, match=rf"a\.txt:1502: .*{problem}.*skip_bad"):
        records(corpus)
    (unit,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    reader = corpus.read(unit, skip_bad=True)
    assert len(list(reader)) == unit.records - 1
    assert reader.skipped == 1


def test_bad_rows_of_a_table(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(),
        4,
        [None, pa.array([0, 3, 3, 4, 7], pa.int32()).buffers()[1], pa.py_buffer(b"one\xfffour")],
    )
    corpus = open_corpus(write_table(tmp_path / "a.parquet", {"text": broken}))
    assert texts(corpus, skip_bad=True) == ["one", "fou"]
    with pytest.raises(CorpusError, match=r"a\.parquet:2: text is empty"):
        records(corpus)
    nulls = open_corpus(write_table(tmp_path / "b.parquet", {"text": pa.array(["a", None])}))
    with pytest.raises(CorpusError, match=r"b\.parquet:2: text is no text \(found None"):
        records(nulls)


# A corpus that is not there, or is another.


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        open_corpus(str(tmp_path / "missing"))
    with pytest.raises(CorpusError, match="no such file"):
        open_corpus("folder/missing.txt")
    with pytest.raises(CorpusError, match=r"such a name are not read .*\.jsonl, "):
        open_corpus(write(tmp_path / "table.xlsx", "a,b"))
    with pytest.raises(CorpusError, match=r"no file that can be read \(found table.xlsx"):
        open_corpus(str(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        write_table(path, {"text": pa.array([], pa.string())})
    else:
        write(path, gzip.compress(b"") if path.suffix == ".gz" else b"")
    with pytest.raises(CorpusError, match=rf"{name}: there is nothing in it"):
        records(open_corpus(str(path)))


def test_limits_must_leave_something(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path / "a.txt", "text"))
    with pytest.raises(CorpusError, match="limit"):
        corpus.plan(unit_bytes=1, limit=0)
    with pytest.raises(SettingError, match="unit"):
        corpus.plan(unit_bytes=0, limit=None)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_a_changed_corpus_is_refused_before_a_record_is_given(tmp_path: Path, name: str) -> None:
    def put(*words: str) -> str:
        path = tmp_path / name
        if path.suffix == ".parquet":
            return write_table(path, {"text": list(words)})
        if path.suffix == ".txt":
            return write(path, "\n".join(words))
        return write_lines(path, [{"text": word} for word in words])

    corpus = open_corpus(put("one", "two"))
    (unit,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    for words in (("one", "twx"), ("one",)):
        put(*words)
        with pytest.raises(CorpusError, match=r"changed since the plan.*found sha256.*allowed"):
            open_corpus(str(tmp_path / name)).read(unit, skip_bad=True)
    put("one", "two")
    assert len(list(corpus.read(unit, skip_bad=False))) == unit.records


def test_a_text_that_grew_no_longer_ends_where_the_plan_says(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path / "a.txt", PARAGRAPH))
    (unit,) = corpus.plan(unit_bytes=1 << 20, limit=None).units
    write(tmp_path / "a.txt", PARAGRAPH * 2)
    with pytest.raises(CorpusError, match="changed since the plan was made"):
        corpus.read(unit, skip_bad=False)


def test_a_source_that_is_gone_is_refused(tmp_path: Path) -> None:
    corpus = open_corpus(write(tmp_path / "a.txt", "text"))
    (unit,) = corpus.plan(unit_bytes=1, limit=None).units
    with pytest.raises(CorpusError, match="does not have"):
        corpus.read(replace(unit, source="../a.txt"), skip_bad=False)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CorpusError, match=r"a\.txt: the file cannot be read: No such file"):
        corpus.read(unit, skip_bad=False)


def test_files_that_belie_their_names_are_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"text": "a"}\n' * 100)
    for number, data in enumerate((b"plain", packed[:-20], packed[:30] + b"\xff" * 20)):
        path = write(tmp_path / f"{number}.jsonl.gz", data)
        with pytest.raises(CorpusError, match="cannot be read"):
            open_corpus(path).plan(unit_bytes=1, limit=None)
    with pytest.raises(CorpusError, match="cannot be read"):
        open_corpus(write(tmp_path / "a.parquet", b"PAR1 but not really PAR1"))


def test_a_damaged_gzip_can_be_read_again_once_mended(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}"} for number in range(5000)]
    path = Path(write_lines(tmp_path / "a.jsonl.gz", rows))
    corpus, whole = open_corpus(str(path)), path.read_bytes()
    first, *_, last = corpus.plan(unit_bytes=9000, limit=None).units
    write(tmp_path / "damaged", whole[:-2000])
    (tmp_path / "damaged").replace(path)
    with pytest.raises(CorpusError, match="cannot be read"):
        corpus.read(last, skip_bad=False)
    write(tmp_path / "mended", whole)
    (tmp_path / "mended").replace(path)
    assert len(list(corpus.read(last, skip_bad=False))) == last.records
    assert len(list(corpus.read(first, skip_bad=False))) == first.records


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitstore.corpus.sources._LINE_LIMIT_BYTES", 100)
    path = write_lines(tmp_path / "a.jsonl", [{"text": "short"}, {"text": "x" * 200}])
    with pytest.raises(CorpusError, match=r"a\.jsonl:2: a line is too long .*100 bytes"):
        open_corpus(path).plan(unit_bytes=1, limit=None)


# The Hub, its data set lying in a local folder.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "org/name/train.jsonl", [{"text": "one"}, {"text": "two"}])
    write_lines(tmp_path / "org/name/test.jsonl", [{"text": "three"}])


@pytest.mark.usefixtures("hub")
def test_hub_data_set_by_configuration_and_split() -> None:
    datasets.disable_progress_bars()
    train, test = open_corpus("org/name:default"), open_corpus("org/name::test")
    assert (train.sources, test.sources) == (("train",), ("test",))
    assert (texts(train), texts(test)) == (["one", "two"], ["three"])


@pytest.mark.usefixtures("hub")
def test_hub_data_set_that_is_not_there() -> None:
    for data in ("org/name::validation", "org/missing"):
        with pytest.raises(CorpusError, match=rf"{data}: there is no such file .*data set"):
            open_corpus(data)


def test_hub_without_datasets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"pip install 'logitstore\[hub\]'"):
        open_corpus("org/name")
