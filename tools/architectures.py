"""Which families of models teach and learn here: `python -m tools.architectures [NAME...]`.

Of every family a small model with random weights is made from its own configuration class, saved,
dumped (documents of unlike length in one batch), verified, compared with plain transformers run on
each document alone, audited, distilled into a student of the same configuration, and that student
evaluated, again beside plain transformers. A Markdown table is printed; the stage that failed says
why, and those after it are not tried. Float32 but where the name says otherwise; about five seconds
a family on one core.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

import logitstore
import trainer
from logitstore.plumbing import load_model
from logitstore.store.verify import verify
from logitstore.teacher.transformers import TransformersTeacher
from tools.architecture_configs import BASE, FAMILIES, MULTIMODAL, VOCAB
from tools.tiny_teacher import texts, tiny_tokenizer

__all__ = ["Differs", "make_model", "measured"]

_DOCUMENTS, _BATCH_TOKENS, _K, _STEPS = 12, 4096, 16, 3
_SPREAD = 4.0  # standard deviation of a row's logits, so that what is forgotten shows
_MOST = {"float32": 2e-3, "bfloat16": 0.25}  # nats, between two ways to one log-probability
_MOST_LOSS = 1e-4  # nats, of the mean loss, in float32
_CODING = 0.02  # nats: steps of 1/64 and of the floor, of --fidelity exact


class Differs(Exception):
    """Two ways to one number gave two numbers."""


def make_model(name: str, folder: Path) -> str:
    """Save the small model called `name` in `folder`, with a tokenizer; the name of its class.

    name: a key of FAMILIES or MULTIMODAL: a model_type, perhaps with a colon and a variant.
    folder: a new one.
    """
    kind = name.partition(":")[0]
    settings = dict(MULTIMODAL[name]) if name in MULTIMODAL else BASE | FAMILIES[name]
    dtype = getattr(torch, settings.pop("dtype", "float32"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _class(kind, name)(AutoConfig.for_model(kind, **settings)).eval()
        with torch.no_grad():
            _make_visible(model)
    (model if dtype == torch.float32 else model.to(dtype)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return type(model).__name__


def _class(kind: str, name: str) -> Any:
    names = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if name in MULTIMODAL:
        names = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return getattr(transformers, names[kind])


def _make_visible(model: Any) -> None:
    """Wide logits, and norms and biases that are not 1 and 0."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith(("bias", "norm.weight")):
            parameter.add_(torch.randn_like(parameter) * 0.1)
    logits_BLV = model(input_ids=torch.arange(1, 41)[None], use_cache=False).logits
    spread = float(logits_BLV.float().std(dim=-1).mean())
    model.get_output_embeddings().weight.mul_(min(100.0, _SPREAD / max(spread, 1e-6)))


class _Family:
    """One family on its way: each stage gives the text of a cell, or raises."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.dtype = "bfloat16" if name.endswith("bfloat16") else "float32"
        self.folder = folder
        self.teacher, self.store, self.run = (folder / one for one in ("teacher", "store", "run"))

    def architecture(self) -> str:
        return make_model(self.name, self.teacher)

    def batch(self) -> str:
        """The teacher's log-probabilities in a batch of unlike lengths, beside each alone."""
        logitstore.dump(
            teacher=self.teacher,
            data=texts(_DOCUMENTS, longest=45),
            out=self.store,
            sparsify="topk",
            k=_K,
            fidelity="exact",
            dtype=self.dtype,
            batch_tokens=_BATCH_TOKENS,
            max_length=100,
        )
        faults = [str(fault) for fault in verify(self.store)]
        if faults:
            raise Differs("; ".join(faults))
        model = TransformersTeacher.load(
            str(self.teacher), vocab_size=VOCAB, device="cpu", dtype=self.dtype
        )
        documents = [stored.document for stored in logitstore.open(self.store)]
        found_RV = torch.cat([part_RV.clone() for part_RV, _ in model.logits(documents)])
        wanted_RV = torch.cat(self._alone(self.teacher))
        return self._difference(found_RV.log_softmax(-1) - wanted_RV, self._most)

    def stored(self) -> str:
        """Every exact entry of the store, beside plain transformers on its document alone."""
        rows = self._alone(self.teacher)
        differences = []
        for stored, wanted_RV in zip(logitstore.open(self.store), rows, strict=True):
            used_RK = stored.targets.used_RK()
            ids_RK = torch.from_numpy(stored.targets.ids_RK.astype(np.int64))
            wanted_RK = wanted_RV.gather(1, ids_RK).numpy()
            differences.append((stored.targets.logprobs_RK - wanted_RK)[used_RK])
        return self._difference(torch.from_numpy(np.concatenate(differences)), self._most + _CODING)

    def audit(self) -> str:
        found = logitstore.audit(self.store, teacher=self.teacher)
        if not found["ok"]:
            raise Differs("; ".join(found["faults"]))
        return f"{found['kl']:.1e}"

    def fit(self) -> str:
        """A few steps of a student with fresh weights, its last loss; its folder loads again."""
        done = trainer.fit(
            logits=self.store,
            student=self._student(),
            out=self.run,
            steps=_STEPS,
            batch_tokens=512,
            lr=1e-3,
            log_steps=1,
        )
        loss = done["metrics"]["loss"]
        if not math.isfinite(loss):
            raise Differs(f"the loss is {loss}")
        return f"{loss:.2f}"

    def _student(self) -> str:
        """The configuration; of a model of several parts, which has none of its own, the folder."""
        if self.name in MULTIMODAL:
            return str(self.teacher)
        path = self.folder / "student.json"
        path.write_bytes((self.teacher / "config.json").read_bytes())
        return str(path)

    def eval(self) -> str:
        """`evaluate` of the trained student and of the teacher, beside plain transformers alone."""
        differences = []
        for folder in (self.run, self.teacher):
            losses = []
            for stored, logp_RV in zip(
                logitstore.open(self.store), self._alone(folder, columns=None), strict=True
            ):
                labels_R = stored.document.input_ids_L[stored.document.counted_L].astype(np.int64)
                losses.append(-logp_RV.gather(1, torch.from_numpy(labels_R)[:, None])[:, 0])
            found = trainer.evaluate(folder, logits=self.store)["loss"]
            differences.append(found - float(torch.cat(losses).double().mean()))
        return self._difference(torch.tensor(differences), _MOST_LOSS)

    def _alone(self, folder: Path, columns: int | None = VOCAB) -> list[torch.Tensor]:
        """log-probabilities [R, V] of each document's counted tokens, by plain transformers.

        Without a number of columns they are those of a student, in float32, over all of them.
        """
        rows = []
        dtype = torch.float32 if columns is None else getattr(torch, self.dtype)
        untouched = load_model(folder, dtype=dtype)
        for stored in logitstore.open(self.store):
            model = copy.deepcopy(untouched)  # some keep what they have met
            ids_L = torch.from_numpy(stored.document.input_ids_L.astype(np.int64))
            with torch.inference_mode():
                outputs = model(input_ids=ids_L[None], use_cache=False)
            logits_LV = outputs.logits[0, :, :columns].float()
            at_R = torch.from_numpy(np.flatnonzero(stored.document.counted_L)) - 1
            rows.append(logits_LV[at_R].log_softmax(-1))
        return rows

    @property
    def _most(self) -> float:
        return _MOST[self.dtype]

    @staticmethod
    def _difference(values: torch.Tensor, most: float) -> str:
        largest = float(values.abs().max())
        if not largest <= most:
            raise Differs(f"differs by {largest:.2g} nats")
        return f"{largest:.1e}"


STAGES = {
    "class": _Family.architecture,
    "batch": _Family.batch,
    "stored": _Family.stored,
    "audit": _Family.audit,
    "student": _Family.fit,
    "eval": _Family.eval,
}


def measured(name: str, folder: Path, *, trace: bool = False) -> dict[str, str]:
    """The cells of a family's row, up to the first stage that failed, and "fault" where one did.

    name: a key of FAMILIES or MULTIMODAL.
    folder: an empty one.
    trace: print a failed stage's traceback.
    """
    family, cells = _Family(name, folder), dict.fromkeys(STAGES, "")
    for stage, run in STAGES.items():
        try:
            cells[stage] = run(family)
        except Exception as error:  # whatever transformers raises belongs into the table
            if trace:
                traceback.print_exc()
            text = " ".join(str(error).split()).replace(str(folder) + os.sep, "")
            ours = isinstance(error, logitstore.LogitStoreError | Differs)
            text = text if ours else f"{type(error).__name__}: {text}"
            cells[stage] = text[:240].replace("|", "/")
            return cells | {"fault": stage}
    return cells


def main() -> int:
    """Print the table; 1 where a family failed."""
    parser = argparse.ArgumentParser(description="Which families of models teach and learn here.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a family; all without any")
    parser.add_argument("--trace", action="store_true", help="print tracebacks of what failed")
    arguments = parser.parse_args()
    names = arguments.names or [*FAMILIES, *MULTIMODAL]
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    print(f"| family | {' | '.join(STAGES)} |", "| --- " * (len(STAGES) + 1) + "|", sep="\n")
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            cells = measured(name, Path(folder), trace=arguments.trace)
        failed += "fault" in cells
        print(f"| `{name}` | " + " | ".join(cells[stage] for stage in STAGES) + " |", flush=True)
    print(f"\n{len(names) - failed} of {len(names)} families passed every stage.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
