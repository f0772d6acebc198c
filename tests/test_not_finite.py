"""A teacher whose numbers are NaN or infinite for one document: it is named, or left out."""

import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import logitstore
from logitstore.errors import NotFinite
from logitstore.forecast import tune

TEXTS = ["the teacher reads the text once", "the student Z reads", "a target is what it is"] * 4
RECORD = 1


@pytest.fixture(params=[math.nan, math.inf], ids=["nan", "inf"])
def broken(request: pytest.FixtureRequest, teacher_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A teacher that cannot read the letter Z."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    [letter] = tokenizer("Z")["input_ids"]
    model.model.embed_tokens.weight.data[letter] = request.param
    texts = [TEXTS[0], TEXTS[1], *[TEXTS[0], TEXTS[2]] * 8]
    return {"teacher": model, "tokenizer": tokenizer, "data": texts}


def test_a_dump_names_it_or_counts_it(broken: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=f"record {RECORD}, .*skip_bad"):
        logitstore.dump(**broken, out=tmp_path / "store")
    assert logitstore.dump(**broken, out=tmp_path / "store", skip_bad=True).skipped == 1
    assert logitstore.inspect(tmp_path / "store")["corpus"]["skipped"] == 1
    records = [one.document.record for one in logitstore.open(tmp_path / "store")]
    assert records == [one for one in range(18) if one != RECORD]


@pytest.mark.parametrize("broken", [math.nan], indirect=True)
@pytest.mark.parametrize("forecast", [logitstore.estimate, logitstore.tune])
def test_a_forecast_names_it_or_goes_on(
    broken: dict[str, Any], forecast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "CANDIDATES", tune.CANDIDATES[:2])
    with pytest.raises(NotFinite, match=f"record {RECORD}, .*skip_bad"):
        forecast(**broken, seconds=1)
    assert forecast(**broken, seconds=1, skip_bad=True).sample_targets > 0


def test_an_audit_names_it(broken: dict[str, Any], teacher_folder: Path, tmp_path: Path) -> None:
    sound = broken | {"teacher": str(teacher_folder), "tokenizer": None}
    logitstore.dump(**sound, out=tmp_path / "store")
    with pytest.raises(NotFinite, match=f"store, record {RECORD}, piece 0: "):
        logitstore.audit(tmp_path / "store", teacher=broken["teacher"], documents=18)
