"""What a store calls itself is shown, and tells neither terminal nor page what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from logitstore.cli.commands import app
from logitstore.errors import printable
from logitstore.format.json import canonical_json
from tests.synthetic import store_spec, stored_documents, write_store

if TYPE_CHECKING:
    from pathlib import Path

# A title, a cleared screen, C1's own introducer, a right-to-left override, markup, a link, HTML.
HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202ebackwards\u2066[/nope][link=http://x]<b>|a"
SEEN = {chr(code) for code in range(0x20)} - {"\n"} | {"\x7f", "\x9b", "\u202e", "\u2066"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    spec = store_spec()
    spec = replace(
        spec,
        teacher=replace(spec.teacher, name=HOSTILE, architecture=HOSTILE),
        corpus=replace(spec.corpus, name=HOSTILE),
        provenance={"created": HOSTILE},
    )
    write_store(tmp_path / "store", [stored_documents([9])], spec=spec)
    return tmp_path / "store"


@pytest.mark.parametrize(
    "command", ["inspect", "inspect --json", "verify", "verify --strict --json"]
)
def test_commands_escape_what_a_store_says(store: Path, command: str) -> None:
    (store / "data" / "x\x1b[2J\u202e[nope]").write_text("stray")
    name, *options = command.split()
    done = CliRunner().invoke(app, [name, *options, str(store)])
    assert done.exit_code == ("--strict" in options), done.output
    assert not SEEN & set(done.stdout + done.stderr)
    if "--json" in options:
        found = json.loads(done.stdout)
        assert name == "verify" or found["teacher"]["name"] == HOSTILE
    elif name == "inspect":
        assert "link=http://x" in done.stdout


def test_errors_escape_what_a_store_says(store: Path) -> None:
    content = json.loads((store / "store.json").read_text())
    content["format"] = HOSTILE
    (store / "store.json").write_bytes(canonical_json(content))
    done = CliRunner().invoke(app, ["inspect", "--json", str(store)])
    assert done.exit_code == 1
    assert not SEEN & set(done.stdout + done.stderr)


def test_the_card_is_one_table_whatever_a_store_says(store: Path) -> None:
    card = (store / "README.md").read_text()
    assert not SEEN & set(card)
    assert "<b>" not in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {3}


@pytest.mark.parametrize("value", [10**400, 1e300, -(10**30)])
def test_sums_that_no_unit_reaches_are_refused(store: Path, value: float) -> None:
    path = store / "commits" / "000000.json"
    content = json.loads(path.read_text())
    content["sums"]["entropy"] = value
    del content["sha256"]
    path.write_bytes(canonical_json(content))
    (store / "manifest.json").unlink()
    done = CliRunner().invoke(app, ["inspect", str(store)])
    assert done.exit_code == 1
    assert "a sum is no number" in done.stderr


def test_text_that_can_be_seen_stays_as_it_is() -> None:
    for text in ("Käse, 日本語, emoji \U0001f600", "a b", ""):
        assert printable(text) == text
    assert printable("a\nb", keep="\n") == "a\nb"
    assert printable("a\nb\x1b") == "a\\nb\\x1b"
