"""Any content of a store's small objects comes back as it was, or is refused in one sentence."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logitstore.errors import CorruptionError, LogitStoreError
from logitstore.format.blocks import BlockCounts
from logitstore.format.json import (
    MAX_JSON_BYTES,
    build,
    canonical_json,
    checked_content,
    parse_json,
    with_check,
)
from logitstore.format.manifest import Manifest, StoredObject
from logitstore.format.numbers import real, reals, whole
from logitstore.format.plan import WorkUnit
from logitstore.format.spec import FORMATS, SparsifierSpec, StoreSpec
from logitstore.format.tokenizer_names import is_tokenizer_name
from logitstore.store.layout import MANIFEST, PLAN, SPEC, StoreLayout, is_object_name
from tests.fuzzed import CHOICES, JSON, KINDS, ODD, TEXT, told
from tests.synthetic import plan_of, store_spec, stored_documents, write_store
from tools.dict_storage import DictStorage
from tools.fuzzing.choices import Choices
from tools.fuzzing.json_changes import changed, json_bytes

PLACE = "object.json"
SEALED = DictStorage()
write_store(SEALED, [stored_documents([4, 3]), stored_documents([5], seed=1)], spec=store_spec())


@given(JSON)
def test_json_comes_back_as_it_was_and_has_one_form(content: Any) -> None:
    data = canonical_json(content)
    found = parse_json(data, place=PLACE)
    assert found == content
    assert canonical_json(found) == data


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_content_with_its_hash_comes_back_and_no_other_hash_is_taken(content: Any) -> None:
    content.pop("sha256", None)
    found = parse_json(with_check(content), place=PLACE)
    assert checked_content(found, place=PLACE) == content
    with pytest.raises(CorruptionError):
        checked_content(found | {"x": 1, "y": 2}, place=PLACE)


@given(
    st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace"))
)
@example(b"[" * 100_000)
@example(b'"\\ud800"')
@example(b"1" * 5000)
@example(b"[1e999]")
def test_bytes_are_json_of_one_form_or_refused(data: bytes) -> None:
    content, problem = told(lambda: parse_json(data, place=PLACE))
    if problem is None:
        assert parse_json(canonical_json(content), place=PLACE) == content
    else:
        assert problem.startswith(PLACE)


def test_json_of_more_than_its_bytes_or_levels_is_refused() -> None:
    assert parse_json(b"[" * 16 + b"]" * 16, place=PLACE)
    for data in (b"[" * 17 + b"]" * 17, b'{"a":' * 17 + b"1" + b"}" * 17):
        with pytest.raises(CorruptionError, match=r"object\.json: JSON is nested too deep"):
            parse_json(data, place=PLACE)
    with pytest.raises(CorruptionError, match=r"object\.json: file is too large"):
        parse_json(b"1".ljust(MAX_JSON_BYTES + 1), place=PLACE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_an_object_of_any_fields_comes_back_as_it_was(kind: Any, data: st.DataObject) -> None:
    wanted = data.draw(KINDS[kind])
    content = parse_json(canonical_json(_content(wanted)), place=PLACE)
    assert _read(kind, content) == wanted


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(st.data())
def test_an_object_with_a_fault_is_refused_or_comes_back(kind: Any, data: st.DataObject) -> None:
    content = changed(_content(data.draw(KINDS[kind])), data.draw(CHOICES))
    found, problem = told(lambda: _read(kind, content))
    if problem is None:
        assert _read(kind, _content(found)) == found
    else:
        assert PLACE in problem


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=5)
@given(data=st.data(), odd=st.sampled_from([-1, 1 << 53, True, 1.0, "1", [1]]))
def test_no_field_takes_a_number_that_is_no_count(kind: Any, data: st.DataObject, odd: Any) -> None:
    content = _content(data.draw(KINDS[kind]))
    counts = {
        one.name
        for made in (kind, BlockCounts, StoredObject, WorkUnit)
        for one in fields(made)
        if str(one.type) == "int"
    }
    parts = [content, *(part for one in content.values() if isinstance(one, list) for part in one)]
    for part in parts:
        for name in counts & set(part):
            before, part[name] = part[name], odd
            with pytest.raises(CorruptionError, match=name):
                _read(kind, content)
            part[name] = before
    _read(kind, content)


def _content(one: Any) -> Any:
    if isinstance(one, Manifest):
        return parse_json(one.encoded(), place=PLACE)
    return one.to_json() if hasattr(one, "to_json") else asdict(one)


def _read(kind: Any, content: Any) -> Any:
    if hasattr(kind, "from_json"):
        return kind.from_json(content, place=PLACE)
    return build(kind, content, place=PLACE)


@given(CHOICES)
def test_a_spec_with_a_fault_is_refused_or_comes_back(choices: Choices) -> None:
    spec = store_spec()
    sound = replace(spec, format=choices.one_of(FORMATS))
    data = json_bytes(changed(sound.to_json(), choices), choices, check=True)
    storage = DictStorage()
    storage.put(SPEC, data)
    found, problem = told(StoreLayout(storage).read_spec)
    if problem is None:
        assert StoreSpec.from_json(found.to_json(), place=PLACE) == found
    else:
        assert SPEC in problem


@given(CHOICES)
def test_a_manifest_with_a_fault_is_refused_or_comes_back(choices: Choices) -> None:
    sound = checked_content(parse_json(SEALED.objects[MANIFEST], place=PLACE), place=PLACE)
    storage = DictStorage()
    storage.put(MANIFEST, json_bytes(changed(sound, choices), choices, check=True))
    found, problem = told(StoreLayout(storage).read_manifest)
    if problem is None:
        storage.put(MANIFEST, found.encoded())
        assert StoreLayout(storage).read_manifest().encoded() == found.encoded()
    else:
        assert MANIFEST in problem


@given(CHOICES)
def test_a_plan_with_a_fault_is_refused_or_has_names_of_its_own(choices: Choices) -> None:
    data = json_bytes(changed(plan_of(3).to_json(), choices), choices, check=True)
    storage = DictStorage()
    storage.put(PLAN, data)
    plan, problem = told(StoreLayout(storage).read_plan)
    if problem is None:
        assert all(is_object_name(unit.name) for unit in plan.units)
        assert len({unit.name for unit in plan.units}) == len(plan.units)
    else:
        assert PLAN in problem


@given(CHOICES)
def test_a_sparsifier_with_a_fault_is_refused_or_comes_back(choices: Choices) -> None:
    content = {"name": "hybrid", "k": 8, "tail_nodes": [1.0, 0.5], "tail_draws": 4, "seed": 0}
    faulty = changed(content, choices)
    found, problem = told(lambda: SparsifierSpec.from_json(faulty, place=PLACE))
    assert problem or SparsifierSpec.from_json(found.to_json(), place=PLACE) == found


@given(st.text(max_size=20) | st.sampled_from(["a/../b", "/a", "a/", ".", "x/./y", "a\n"]))
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    if is_object_name(name):
        assert name.isascii()
        assert name.isprintable()
        assert not {"", ".", ".."} & {*name.split("/")}
    if is_tokenizer_name(name):
        assert is_object_name(name)


@pytest.mark.parametrize("read", [whole, real, reals])
@given(ODD)
def test_a_number_of_an_option_is_plain_or_refused(read: Any, value: Any) -> None:
    found, problem = told(lambda: read("--x", value))
    if problem is None:
        assert type(found) is {whole: int, real: float, reals: tuple}[read]
    else:
        assert problem.startswith("x ")


@given(ODD, ODD)
def test_every_error_is_one_line_that_can_be_printed(value: Any, place: Any) -> None:
    text = str(LogitStoreError("no", place=place, found=value, allowed=value, remedy="None"))
    assert text.isprintable()
    assert len(text) < 20_000
    json.dumps(text).encode()
