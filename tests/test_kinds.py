"""Every sparsifier from end to end: dumped, verified, audited, and its teacher as a student of it.

A teacher that is evaluated on its own store differs from it by what the codec states, and, where
entries were drawn, by what chance leaves of the mean over the rows. All tables are read, so what
joins one is tested here before its author writes a test.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
import trainer
from logitstore.codec import CODECS, codec_for
from logitstore.errors import CorruptionError, LogitStoreError
from logitstore.sparsify import SPARSIFIERS, sparsifier_of
from logitstore.store.containers import CONTAINERS
from logitstore.store.verify import verify
from logitstore.targets.kinds import Entries, TargetKind
from logitstore.targets.sparsifier import Sparsifier
from tests.several_commands import run_several
from trainer.evaluation.signs import shown

TEXTS = [
    "The teacher reads the text once.",
    "A target is the distribution of the next token given the tokens before it. " * 4,
    "the student reads what the teacher wrote",
    "A student.",
] * 8
# Chance may put a mean this many standard errors from 0: 1 in 15,000, and seeds are fixed.
STANDARD_ERRORS = 4
# float32 logits in batches of another composition.
FLOAT32 = 5e-6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": f"{n} {t}"}) + "\n" for n, t in enumerate(TEXTS)))
    return path


def dumped(out: Path, teacher: Path, corpus: Path, **options: Any) -> Any:
    logitstore.dump(teacher=str(teacher), data=str(corpus), out=out, unit_tokens=400, **options)
    return logitstore.open(out)


def check_teacher_on_its_own_store(
    out: Path, teacher: Path, *, temperature: float = 1.0, slack: float = 0.0
) -> None:
    store = logitstore.open(out)
    kind, codec = sparsifier_of(store.spec.sparsifier).targets, codec_for(store.spec)
    found = trainer.evaluate(teacher, logits=str(out), temperature=temperature)
    bound = found["bounds"].get("kl", "exact")
    allowed = slack + FLOAT32
    if bound == "estimate" or (kind.drawn and not kind.keeps_tail):
        estimates_R = drawn_kl(store, teacher, temperature)
        assert found["kl"] == pytest.approx(estimates_R.mean(), abs=1e-4)
        allowed += codec.stated_drawn_kl
        allowed += STANDARD_ERRORS * estimates_R.std() / math.sqrt(len(estimates_R))
    else:
        allowed += codec.stated_kl
        assert found["kl"] >= -FLOAT32
    assert abs(found["kl"]) <= allowed, (found["kl"], allowed)
    if found["top1_agreement"] is not None:
        assert found["top1_agreement"] >= 0.99
    for name, exact in (("kl", 0.0), ("acceptance", 1.0)):
        if found[name] is not None:
            sign, value = shown(
                name,
                found[name],
                bound=found["bounds"].get(name),
                coding_error=found["coding_errors"].get(name),
            )
            assert sign != "lower" or value <= exact, (name, value)
            assert sign != "upper" or value >= exact, (name, value)


def drawn_kl(store: Any, teacher: Path, temperature: float) -> np.ndarray:
    """float64 [R]: soft cross-entropy of the live teacher under the weights, less the entropy."""
    import torch
    from transformers import AutoModelForCausalLM

    spec = store.spec.sparsifier
    own = store.with_draw(spec.draw_number(temperature=temperature, repeat=0))
    model = AutoModelForCausalLM.from_pretrained(teacher)
    rows = []
    for stored in own:
        ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
        with torch.no_grad():
            logits_LV = model(ids_L[None]).logits[0, :, : store.spec.tokenizer.vocab_size]
        at_R = np.flatnonzero(stored.document.counted_L) - 1
        live_RV = (logits_LV[at_R] / temperature).double().log_softmax(-1).numpy()
        targets = stored.targets
        live_RK = np.take_along_axis(live_RV, targets.ids_RK.astype(np.int64), axis=1)
        weights_RK = np.where(targets.used_RK(), targets.weights_RK, 0.0)
        rows.append(-(weights_RK * live_RK).sum(axis=1) - targets.entropy_R)
    return np.concatenate(rows)


@pytest.mark.parametrize("container", sorted(CONTAINERS))
@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_a_teacher_agrees_with_its_own_store(
    name: str,
    container: str,
    teacher_folder: Path,
    unpadded_teacher: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    store = dumped(tmp_path / "s", teacher_folder, corpus, sparsify=name, format=container)
    assert list(verify(tmp_path / "s")) == []
    assert sparsifier_of(store.spec.sparsifier) is SPARSIFIERS[name]
    assert all(one.targets.kind == SPARSIFIERS[name].targets for one in store)
    audit = logitstore.audit(tmp_path / "s", teacher=str(teacher_folder), documents=len(store))
    assert audit["ok"], audit["faults"]
    check_teacher_on_its_own_store(tmp_path / "s", unpadded_teacher)


@pytest.mark.parametrize("temperature", [2.0, 4.0])
@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_and_at_the_temperatures_that_it_was_made_for(
    name: str,
    temperature: float,
    teacher_folder: Path,
    unpadded_teacher: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    options = {"sparsify": name, "temperature": [1.0, temperature]}
    store = dumped(tmp_path / "s", teacher_folder, corpus, **options)
    assert f"{temperature:g}" in SPARSIFIERS[name].served(store.spec.sparsifier) or (
        SPARSIFIERS[name].targets.keeps_tail
    )
    # Tails are stored in steps of 1/1024 nat; a bucket's KL is second order in that.
    check_teacher_on_its_own_store(
        tmp_path / "s", unpadded_teacher, temperature=temperature, slack=1e-5
    )


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_what_an_untold_temperature_gets_is_refused_or_right(
    name: str, teacher_folder: Path, unpadded_teacher: Path, corpus: Path, tmp_path: Path
) -> None:
    dumped(tmp_path / "s", teacher_folder, corpus, sparsify=name)
    if SPARSIFIERS[name].targets.keeps_tail:
        check_teacher_on_its_own_store(
            tmp_path / "s", unpadded_teacher, temperature=3.0, slack=1e-4
        )
        return
    with pytest.raises(LogitStoreError, match="not drawn at this temperature"):
        trainer.evaluate(teacher_folder, logits=str(tmp_path / "s"), temperature=3.0)


def test_what_is_drawn_is_the_rest_of_a_row_only_where_weights_sum_to_one() -> None:
    """Else one row may have drawn nothing, and an audit would call its exact entries wrong."""
    import torch

    from logitstore.fidelity.divergence import StoredRows, live_logprobs
    from logitstore.sparsify.build import sparsifier_spec

    logits_RV = 3 * torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    spec, keys_R = sparsifier_spec("unbiased", k=16), np.arange(20, dtype=np.uint64)
    labels_R = torch.zeros(20, dtype=torch.int64)
    (whole,) = SPARSIFIERS["unbiased"].draw(logits_RV.clone(), labels_R, keys_R, spec)
    exact = replace(
        whole,
        kind=replace(whole.kind, weights_sum_to_one=False),
        count_R=whole.exact_RK().sum(axis=1).astype(np.int32),  # the exact entries come first
    )
    for targets in (whole, exact):
        rows = StoredRows.of(targets, live_logprobs(logits_RV, temperature=1), nodes=())
        assert float(rows.head_kl_R().abs().max()) < 1e-6


def test_a_kind_that_no_loss_can_use_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="tail"):
        TargetKind(entries=Entries.EXACT, keeps_tail=False, weights_sum_to_one=False)


def test_a_declaration_without_what_it_needs_does_not_import() -> None:
    whole = SPARSIFIERS["topk"]
    with pytest.raises(TypeError, match="no option"):
        replace(whole, room=("entries",))
    with pytest.raises(TypeError, match="no option"):
        replace(whole, compared=({"top_p": 0.5},))
    with pytest.raises(TypeError, match="required keyword-only argument"):
        Sparsifier(name="half", summary="", targets=whole.targets)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="presets"):
        replace(CODECS["rank-delta/1"], presets={"balanced": {}})


@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_the_table_agrees_with_itself(name: str) -> None:
    one = SPARSIFIERS[name]
    assert one.name == name
    assert one.codec in CODECS
    assert one.summary
    assert one.summary[-1] != "."
    for option, default in one.options.items():
        assert option.check(default) == default
        assert option.help.endswith(".")


@pytest.mark.parametrize("field", ["k", "tail_nodes", "temperatures", "seed", "more"])
@pytest.mark.parametrize("name", sorted(SPARSIFIERS))
def test_a_spec_that_is_none_of_the_sparsifiers_is_refused(name: str, field: str) -> None:
    from logitstore.format.spec import SparsifierSpec
    from logitstore.sparsify.build import sparsifier_spec

    content = sparsifier_spec(name).to_json()
    wrong = {"k": 0, "tail_nodes": [], "temperatures": [2.0], "seed": -1, "more": 3}[field]
    if content.get(field) == wrong:
        wrong = [1.0, 0.5]
    if field == "temperatures" and field in content:
        del content[field]
    else:
        content[field] = wrong
    with pytest.raises(CorruptionError):
        sparsifier_of(SparsifierSpec.from_json(content, place="here"))


# --- what somebody else adds, see added_kinds.py


@pytest.mark.parametrize(
    ("codec", "container"), [("rank-delta/1", "zarr"), ("made-up/1", "parquet")]
)
def test_a_new_sparsifier_and_a_new_codec_are_a_line_of_a_table(
    codec: str,
    container: str,
    teacher_folder: Path,
    unpadded_teacher: Path,
    corpus: Path,
    tmp_path: Path,
) -> None:
    out, places = tmp_path / "s", ("--teacher", teacher_folder, "--data", corpus)
    options = ("--sparsify", "made_up", "--made-up-share", 0.05, "--format", container)
    done = run_several(
        f"added_kinds {codec}",
        [
            ["logitstore", "dump", *places, "--out", out, *options],
            ["logitstore", "verify", out],
            ["logitstore", "inspect", out, "--json"],
            ["logitstore", "audit", out, "--teacher", teacher_folder, "--json"],
            ["trainer", "eval", unpadded_teacher, "--logits", out, "--json"],
        ],
    )
    assert [one.returncode for one in done] == [0] * 5, [one.stderr for one in done]
    seen, audit, found = json.loads(done[2].stdout), done[3], json.loads(done[4].stdout)
    assert seen["sparsifier_options"]["made_up_share"] == 0.05
    assert seen["codec"]["id"] == codec
    stated = json.loads(audit.stdout)["stated_kl"]
    assert abs(found["kl"]) <= stated + FLOAT32
    assert found["top1_agreement"] >= 0.99
    # Elsewhere the sparsifier is unknown, which the store says.
    with pytest.raises(CorruptionError, match="does not know"):
        logitstore.open(out)


def test_a_new_sparsifiers_options_are_in_the_help() -> None:
    words = ("--teacher", "t", "--data", "d", "--out", "o", "--sparsify", "made_up")
    helped, refused = run_several(
        "added_kinds made-up/1",
        [
            ["logitstore", "dump", "--help"],
            ["logitstore", "dump", *words, "--made-up-share", 2],
        ],
    )
    shown = helped.stdout
    assert "--made-up-share" in shown
    assert "made_up" in shown
    assert refused.returncode == 2
    assert "--made-up-share is out of range" in refused.stderr
