"""Targets whose weights sum to 1 on average alone: everywhere that a kind is asked for that."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from logitstore.fidelity.divergence import StoredRows
from logitstore.fidelity.gradients import GradientComparison
from logitstore.fidelity.pulls import PullSum
from logitstore.targets.tails import rest_logmass
from logitstore.targets.targets import EMPTY_TAIL, SparseTargets
from tests.added_poisson import KIND, draw
from tests.several_commands import run_several
from trainer.losses import TargetTensors, exact_teacher

VOCAB, ROWS = 300, 200
THRESHOLD = 0.02


def targets_of(logits_RV: torch.Tensor) -> SparseTargets:
    spec = SimpleNamespace(k=150, options={"threshold": THRESHOLD})
    keys_R = np.arange(len(logits_RV), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    (targets,) = draw(logits_RV, torch.zeros(len(logits_RV), dtype=torch.long), keys_R, spec)
    return targets


def logits(sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return sharpness * torch.randn(ROWS, VOCAB, generator=generator)


def rest_of(logp_RV: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
    """[R]: the teacher's mass of all that is no exact entry, summed over just that."""
    exact_RK = torch.from_numpy(targets.exact_RK())
    ids_RK = torch.from_numpy(targets.ids_RK.astype(np.int64))
    exact_RV = torch.zeros(logp_RV.shape).scatter_add_(1, ids_RK, exact_RK.float()) > 0
    return logp_RV.exp().masked_fill(exact_RV, 0).sum(-1)


# 4.8 nats down to 0.05: there the rest is 1e-3 of the mass and less.
@pytest.mark.parametrize("sharpness", [1.0, 3.0, 10.0])
def test_the_bucket_is_what_the_exact_entries_leave(sharpness: float) -> None:
    logp_RV = logits(sharpness).double().log_softmax(-1)
    targets = targets_of(logits(sharpness))
    sums_R = targets.weights_RK.sum(1)
    assert sums_R.max() > 1.001  # or it would be no test
    expected_R = rest_of(logp_RV, targets)
    teacher = exact_teacher(TargetTensors.of(targets), nodes=(), temperature=1.0, vocab_size=VOCAB)
    torch.testing.assert_close(teacher.log_tail_N.exp().double(), expected_R, rtol=1e-4, atol=3e-7)
    assert StoredRows.of(targets, logp_RV, nodes=()).head_kl_R().abs().max() < 1e-6


def test_a_sharp_rows_bucket_keeps_its_digits() -> None:
    """As 1 - p, in float32, this one would be 0."""
    rest = torch.tensor([1e-9, 1e-12, 1e-3], dtype=torch.float64)
    logprobs_RK = torch.stack((torch.log1p(-rest), rest.new_full((3,), EMPTY_TAIL)), dim=1).float()
    exact_RK = torch.tensor([[True, False]]).expand(3, -1)
    found_R = rest_logmass(KIND, logprobs_RK, used_RK=exact_RK, exact_RK=exact_RK, vocab_size=9)
    torch.testing.assert_close(found_R.double(), rest.log(), rtol=1e-5, atol=1e-5)
    full_R = rest_logmass(KIND, logprobs_RK, used_RK=exact_RK, exact_RK=exact_RK, vocab_size=1)
    assert (full_R == EMPTY_TAIL).all()


def test_gradients_and_pulls_are_those_of_the_loss() -> None:
    """`sum_i w_i log q_i` by autograd, for a uniform student."""
    targets = targets_of(logits(2.0))
    assert abs(targets.weights_RK.sum() / ROWS - 1) > 1e-3
    weights_RV = torch.zeros(ROWS, VOCAB, dtype=torch.float64)
    ids_RK = torch.from_numpy(targets.ids_RK.astype(np.int64))
    weights_RV.scatter_add_(1, ids_RK, torch.from_numpy(targets.weights_RK).double())
    leaf_V = torch.zeros(VOCAB, dtype=torch.float64, requires_grad=True)
    loss = -(weights_RV * leaf_V.log_softmax(-1)).sum()
    (sparse_V,) = torch.autograd.grad(loss, leaf_V)
    logp_RV = logits(2.0).double().log_softmax(-1)
    dense_V = (1 / VOCAB - logp_RV.exp()).sum(0)

    compared = GradientComparison(VOCAB)
    compared.add(logp_RV, targets)
    assert compared.norm_ratio == pytest.approx(float(sparse_V.norm() / dense_V.norm()), rel=1e-6)
    pulls = PullSum(VOCAB)
    pulls.add(targets)
    np.testing.assert_allclose(1 / VOCAB - pulls.mean_V, sparse_V.numpy() / ROWS, atol=1e-7)


def test_such_a_kind_is_sound_from_end_to_end(
    teacher_folder: Path, unpadded_teacher: Path, tmp_path: Path
) -> None:
    """Dumped, verified, audited; its teacher keeps every token that it drafts itself."""
    corpus = tmp_path / "corpus.jsonl"
    texts = ["A target is the distribution of the next token. " * 4, "The teacher reads."] * 12
    corpus.write_text("".join(json.dumps({"text": f"{n} {t}"}) + "\n" for n, t in enumerate(texts)))
    out = tmp_path / "s"
    places = ("--teacher", teacher_folder, "--data", corpus, "--out", out)
    student = tmp_path / "student.json"
    student.write_text((teacher_folder / "config.json").read_text())
    fit = ("--student", student, "--out", tmp_path / "run", "--steps", "2", "--device", "cpu")
    done = run_several(
        "added_poisson",
        [
            ["logitstore", "dump", *places, "--sparsify", "poisson"],
            ["logitstore", "verify", out],
            ["logitstore", "audit", out, "--teacher", teacher_folder, "--json"],
            ["trainer", "eval", unpadded_teacher, "--logits", out, "--json"],
            ["trainer", "fit", "--logits", out, *fit],
        ],
    )
    assert [one.returncode for one in done] == [0] * 5, [one.stderr for one in done]
    assert json.loads(done[2].stdout)["kl"] < 1e-5
    found = json.loads(done[3].stdout)
    assert found["bounds"] == {"kl": "estimate", "acceptance": "upper"}
    assert found["acceptance"] == pytest.approx(1.0, abs=1e-5)
