"""What is shown of a store is what it holds: texts, packs, comparisons, plots, what is found."""

from __future__ import annotations

import base64
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import logitstore
from logitstore.errors import SettingError, TokenizerError
from logitstore.sparsify import SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.documents import StoredDocument
from logitstore.viewing.comparison import SecondStore, kl_at_least
from logitstore.viewing.documents import StoreView
from logitstore.viewing.finding import find_document, search
from logitstore.viewing.packing import pack, tail_mass
from logitstore.viewing.page import page
from logitstore.viewing.survey import Survey
from logitstore.viewing.token_texts import TokenTexts
from tests.foreign_writers import WRITERS
from tests.synthetic import sparse_targets, store_spec, stored_documents, write_store
from tests.viewed_stores import ADDED, HOSTILE, VOCABULARY, documents, tokenizer_json, write_viewed

if TYPE_CHECKING:
    from pathlib import Path

    from logitstore.targets.targets import SparseTargets

TEXTS = TokenTexts.of(tokenizer_json(), vocab_size=VOCABULARY)


def test_tokens_read_as_text_and_bytes_that_are_no_text_as_bytes() -> None:
    assert [TEXTS.text_of(one) for one in (*b"a \n", 0xE6, 257, 299)] == [
        *("a", " ", "\n", "⟨E6⟩", ADDED[257], "⟨299⟩")
    ]
    ids = [*"x漢y🙂".encode(), 0xF0, 0x9F, ord("z")]
    in_place = TEXTS.texts_in_place(ids)
    shown = "".join(in_place.get(at, TEXTS.text_of(one)) for at, one in enumerate(ids))
    assert shown == "x⟨E6⟩⟨BC⟩漢y⟨F0⟩⟨9F⟩⟨99⟩🙂⟨F0⟩⟨9F⟩⟨F0⟩⟨9F⟩z"
    assert TEXTS.whole(ids[:-3]) == "x漢y🙂"


@pytest.mark.parametrize(
    ("decoder", "vocabulary", "texts"),
    [
        (
            {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"},
                ],
            },
            [["▁the", -1.0], ["<0xE6>", -2.0]],
            [" the", "⟨E6⟩"],
        ),
        ({"type": "Metaspace", "replacement": "▁"}, {"▁the": 0, "a▁b": 1}, [" the", "a b"]),
        ({"type": "WordPiece", "prefix": "##"}, {"the": 0, "##ing": 1}, [" the", "ing"]),
    ],
)
def test_other_tokenizers_read_as_their_decoders_say(
    decoder: dict[str, Any], vocabulary: Any, texts: list[str]
) -> None:
    content = {"model": {"vocab": vocabulary}, "decoder": decoder}
    found = TokenTexts.of({"tokenizer.json": json.dumps(content).encode()}, vocab_size=2)
    assert [found.text_of(one) for one in (0, 1)] == texts


@pytest.mark.parametrize(
    "content", ["{}", "[]", "{", '{"model": {"vocab": {"a": "b"}}}', '{"model": {"vocab": [1]}}']
)
def test_a_broken_tokenizer_shows_ids(content: str) -> None:
    found = TokenTexts.of({"tokenizer.json": content.encode()}, vocab_size=3)
    assert found.text_of(2) == "⟨2⟩"


def _unpacked(column: dict[str, Any]) -> np.ndarray:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(column["data"])), dtype=np.uint8)
    planes = planes.reshape(column["bytes"], column["length"]).astype(np.int64)
    return (planes * 256 ** np.arange(column["bytes"])[:, None]).sum(axis=0)


def _rows_of(packed: dict[str, Any]) -> list[dict[int, tuple[float, bool]]]:
    """Of each target the entries: id -> probability, drawn."""
    names = [name for name in ("ids", "count", "top", "delta", "level") if packed[name]]
    found = {name: _unpacked(packed[name]) for name in names}
    drawn = _unpacked(packed["drawn"]) if packed["drawn"] else np.zeros(len(found["delta"]))
    rows, at = [], 0
    for count, top in zip(found["count"], found["top"], strict=True):
        entries = slice(at, at + count)
        ids = found["ids"][np.cumsum(found["delta"][entries])]
        below = np.array(packed["levels"])[found["level"][entries]]
        values = np.exp(-(top + below) / 1000)
        marks = drawn[entries].astype(bool).tolist()
        rows.append(dict(zip(ids.tolist(), zip(values.tolist(), marks, strict=True), strict=True)))
        at += count
    return rows


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_a_pack_holds_every_entry_to_a_thousandth(name: str) -> None:

    spec = sparsifier_spec(name, **({"draws": 12} if name == "sample" else {"k": 12}))
    logits_RV = torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    labels_R = torch.arange(40)
    targets: SparseTargets = SPARSIFIERS[name].draw(
        logits_RV, labels_R, np.arange(40, dtype=np.uint64), spec
    )[0]
    (one,) = stored_documents([41])
    packed = pack([StoredDocument(document=one.document, targets=targets)], TEXTS)
    for row, found in enumerate(_rows_of(packed)):
        used = slice(0, int(targets.count_R[row]))
        assert set(found) == set(targets.ids_RK[row, used].tolist())
        values = [found[int(one)][0] for one in targets.ids_RK[row, used]]
        np.testing.assert_allclose(values, targets.weights_RK[row, used], rtol=2e-3)
        marks = [found[int(one)][1] for one in targets.ids_RK[row, used]]
        assert marks == targets.sampled_RK[row, used].tolist()
    for column, values in (("entropy", targets.entropy_R), ("loss", -targets.label_logprob_R)):
        np.testing.assert_allclose(_unpacked(packed[column]) / 1000, values, atol=6e-4)
    exact_R = np.where(targets.exact_RK(), targets.weights_RK, 0).sum(axis=1)
    expected_R = 1 - exact_R if targets.kind.has_exact else np.full(40, np.nan)
    np.testing.assert_allclose(tail_mass(targets), expected_R, atol=1e-5)


def test_entries_that_are_left_out_are_counted() -> None:
    stored = stored_documents([30])
    whole, part = pack(stored, TEXTS), pack(stored, TEXTS, least=0.01)
    left = _unpacked(part["left"])
    for full, kept, number in zip(_rows_of(whole), _rows_of(part), left, strict=True):
        assert {one for one, (p, _) in full.items() if p >= 0.01} == set(kept)
        assert len(full) - len(kept) == number
    assert left.any()
    assert whole["left"] is None


def test_the_least_kl_is_kl_where_all_is_known_and_never_above_it() -> None:
    def dense(targets: SparseTargets) -> np.ndarray:
        found = np.empty((len(targets), 20))
        np.put_along_axis(found, targets.ids_RK.astype(int), targets.logprobs_RK, axis=1)
        return found

    whole = [sparse_targets(50, k=20, vocab_size=20, seed=one) for one in (1, 2)]
    p, q = map(dense, whole)
    kl_R = (np.exp(p) * (p - q)).sum(axis=1)
    np.testing.assert_allclose(kl_at_least(*whole), kl_R, atol=1e-5)
    for k in (1, 4, 12):
        parts = [sparse_targets(50, k=k, vocab_size=20, seed=one) for one in (1, 2)]
        assert (kl_at_least(*parts) <= kl_R + 1e-6).all()
    assert (kl_at_least(*parts) > 0.3 * kl_R).mean() > 0.5
    assert np.abs(kl_at_least(whole[0], whole[0])).max() < 1e-9


def test_documents_are_found_by_id_and_by_text(tmp_path: Path) -> None:
    texts = [f"text {number} {'Needle' if number % 30 == 7 else 'hay'} é" for number in range(100)]
    store = logitstore.open(write_viewed(tmp_path / "store", documents(texts)))
    assert len(store.blocks) > 3
    for number in (0, 63, 99):
        assert find_document(store, store[number].document.id.hex()) == (
            number,
            int(np.searchsorted(np.cumsum(store.blocks.documents_B), number, side="right")) + 1,
        )
    assert find_document(store, "0" * 32) == (None, len(store.blocks))
    found = search(store, TEXTS, "nEEdle")
    assert [one["number"] for one in found["hits"]] == [7, 37, 67, 97]
    assert found["hits"][0] | {"number": 0} == {
        "number": 0,
        "token": 7,
        "before": "text 7 ",
        "found": "Needle",
        "after": " é",
    }
    assert [one["number"] for one in search(store, TEXTS, "É", start=98)["hits"]] == [98, 99]
    sharp = logitstore.open(write_viewed(tmp_path / "sharp", documents(["ß Grüße ﬁn aus ß"])))
    (hit,) = search(sharp, TEXTS, "GRÜSSE FI")["hits"]  # as it stands there, not as it was folded
    assert (hit["before"], hit["found"], hit["after"]) == ("ß ", "Grüße ﬁ", "n aus ß")
    twenty = search(store, TEXTS, "text")
    assert (len(twenty["hits"]), twenty["next"]) == (20, 20)
    with pytest.raises(SettingError):
        search(store, TEXTS, "")
    with pytest.raises(SettingError, match="no document's id"):
        StoreView(store).find("xyz")


def test_a_survey_of_all_is_what_the_store_holds(tmp_path: Path) -> None:
    store = logitstore.open(
        write_viewed(tmp_path / "store", documents([f"{'word ' * (1 + n % 9)}" for n in range(60)]))
    )
    survey = Survey(store)
    assert survey.look(seconds=0)["seen"]["blocks"] == 0
    found = survey.look(seconds=60)
    assert found["seen"] == found["of"]
    every = [one.targets for one in store]
    entropy_R = np.concatenate([one.entropy_R for one in every])
    plot = found["plots"]["entropy"]
    counts, _ = np.histogram(entropy_R, bins=len(plot["counts"]), range=(0, plot["most"]))
    assert plot["counts"] == counts.tolist()
    assert plot["mean"] == pytest.approx(entropy_R.mean(), rel=1e-5)
    means = {n: float(-one.label_logprob_R.mean()) for n, one in enumerate(every) if len(one) >= 8}
    expected = sorted(means, key=lambda number: -means[number])[:50]
    assert [one["number"] for one in found["lists"]["loss"]] == expected


def test_two_stores_meet_by_id_and_say_where_they_differ(tmp_path: Path) -> None:
    texts = [*HOSTILE, "one more"]
    first = documents(texts)
    others = documents([HOSTILE[1], HOSTILE[0], HOSTILE[2]], seed=9)  # two have changed places
    others = [others[0], others[2], first[3]]
    here = logitstore.open(write_viewed(tmp_path / "a", first))
    there = logitstore.open(write_viewed(tmp_path / "b", others))
    view = StoreView(here, SecondStore.of(there, here))
    shown = view.documents([0, 1, 2, 3])
    notes = [one.note for one in shown.beside]
    assert notes == [
        "The second store has other tokens under this document's id.",
        "The second store has no such document.",
        None,
        None,
    ]
    content = shown.to_json()
    assert [one.get("second") for one in content["documents"]] == [None, None, 0, 1]
    assert shown.beside[3].kl_R is not None
    assert np.abs(shown.beside[3].kl_R).max() < 1e-6
    foreign = write_store(tmp_path / "c", [stored_documents([9])], spec=store_spec(k=8))
    with pytest.raises(TokenizerError, match="another than the first's"):
        SecondStore.of(logitstore.open(foreign.storage), _with_other_tokenizer(here))


def _with_other_tokenizer(store: logitstore.Store) -> logitstore.Store:
    from dataclasses import replace

    tokenizer = replace(store.spec.tokenizer, fingerprint="9" * 64)
    return replace(store, spec=replace(store.spec, tokenizer=tokenizer))


def test_text_of_a_store_is_no_markup_of_a_page() -> None:
    text = "</script><script>alert(1)</script>\u2028<!--"
    made = page("viewer", title=text, data={"text": text}, alone=True)
    assert made.html.count("</script>") == 2
    assert "alert(1)</script>" not in made.html
    assert "\u2028" not in made.html.split('id="data">')[1]
    content = made.html.split('id="data">')[1].split("</script>")[0]
    assert json.loads(content) == {"text": text}
    assert "default-src 'none'" in made.policy
    assert "unsafe" not in made.policy


def test_a_page_in_a_file_holds_documents_spread_over_the_store(tmp_path: Path) -> None:
    from logitstore.serving.view import view

    store = write_viewed(tmp_path / "store", documents([f"text {n} of it" for n in range(40)]))
    told: list[str] = []
    view(store, html=tmp_path / "page.html", documents=5, tell=told.append)
    data = (tmp_path / "page.html").read_bytes()
    assert told == [f"{tmp_path}/page.html: 5 documents, {len(data):,} bytes"]
    content = json.loads(data.decode().split('id="data">')[1].split("</script>")[0])
    assert [one["number"] for one in content["pack"]["documents"]] == [0, 10, 20, 29, 39]
    assert content["survey"]["seen"] == content["survey"]["of"]


@pytest.mark.parametrize("name", ["llamacpp", "axolotl", "vllm"])
def test_stores_of_other_systems_are_shown_as_far_as_they_know(
    name: str, tmp_path: Path, tokenizer: Any
) -> None:
    case = WRITERS[name](tmp_path)
    logitstore.import_store(case.source, tmp_path / "store", tokenizer=tokenizer, **case.options)
    store = logitstore.open(tmp_path / "store")
    view = StoreView(store)
    info, packed = view.info(), view.documents([0]).to_json()["first"]
    assert info["whole"] is case.whole
    assert info["entries"] == ("shares" if case.shares else "exact")
    for column in ("loss", "entropy"):
        assert (_unpacked(packed[column]) == 0xFFFF).all() != case.whole
    assert (_unpacked(packed["tail"]) == 0xFFFF).all() == case.shares
    for row, found in enumerate(_rows_of(packed)):
        assert len(found) == store[0].targets.count_R[row]
    survey = Survey(store).look(seconds=60)
    assert bool(survey["lists"]["loss"]) <= case.whole
    assert (survey["plots"]["entropy"]["mean"] is not None) == case.whole
