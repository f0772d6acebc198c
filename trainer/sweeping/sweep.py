"""`sweep`: a grid of runs from stores alone, measured on held-out text, with a page of answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore import StorageError
from logitstore.plumbing import LocalStorage, choose_device, options_of, takes, tell_stage
from trainer.data.store import as_store
from trainer.evaluation.measure import evaluate
from trainer.losses import LOSSES
from trainer.losses.distillation import refuse_unserved
from trainer.losses.options import LOSS_OPTIONS, chosen_loss
from trainer.sweeping.findings import Pair, Sweep, row_of, sentences
from trainer.sweeping.grid import Setting, settings_of, short_names
from trainer.sweeping.options import PASSED, SweepOptions
from trainer.sweeping.page import written
from trainer.sweeping.results import Results, bound_of
from trainer.sweeping.running import Run, run_all
from trainer.training.run_folder import refuse_unwritable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Swept", "sweep"]

_FIGURES = ("loss", "perplexity", "kl", "top1_agreement", "acceptance", "ece", "tokens_per_second")
_PAGE = "sweep.html"
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What a sweep found.

    `rows` has the means over the seeds of each setting; `models` a row for each student, and the
    teacher's, with parameters, MiB of weights, tokens a second, loss and KL; None stands for what
    was not measured, and `loss_of_store` is true of a loss that the held-out store tells of its
    teacher. `answers` are sentences. Of a dry run there are `runs` and `seconds` alone.
    """

    runs: list[str]
    seconds: float | None = None  # that the runs are expected to take: of a dry run
    rows: tuple[dict[str, Any], ...] = ()
    models: tuple[dict[str, Any], ...] = ()
    answers: tuple[str, ...] = ()
    page: Path | None = None


@takes((*options_of(SweepOptions), *PASSED))
def sweep(**values: Any) -> Swept:
    """Run a grid of settings, each with several seeds, measure all, and say what that shows.

    Every store, student, alpha, temperature, divergence and learning rate is combined with every
    other; hard labels (alpha 0) know no temperature and are one setting. No teacher is loaded but
    to be measured itself (`teacher`). Runs that are done are skipped, and those that were stopped
    go on: the same call again takes the sweep up, and a larger grid or more seeds extend it.

    Settings are compared by their loss on `eval_logits`, seed by seed; intervals are of 95 %, by
    Student's t, widened where several settings were asked at once. The page, `sweep.html`, and
    `results.json` lie in `out`. Raises what `fit` and `evaluate` raise; SettingError for a store
    that does not serve a loss or a temperature of the grid, before anything is run.
    """
    own = {one.name for one in fields(SweepOptions)}
    options = SweepOptions(**{name: value for name, value in values.items() if name in own})
    passed = {name: value for name, value in values.items() if name not in own}
    work = _Work.of(options, passed)
    return work.dry() if options.dry_run else work.run(options.on_progress)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A sweep after the checks that are cheap."""

    options: SweepOptions
    passed: dict[str, Any]  # what every run is given
    stores: list[Any]
    held: Any
    settings: list[Setting]

    @staticmethod
    def of(options: SweepOptions, passed: dict[str, Any]) -> _Work:
        """Open the stores, and refuse what they do not serve."""
        memory = passed.get("max_memory")
        stores = [as_store(one, max_memory=memory) for one in options.logits]
        held = as_store(options.eval_logits, max_memory=memory)
        settings = settings_of(options)
        for each in LOSS_OPTIONS:  # it goes to the runs whose loss has it
            takers = [own.loss for own in settings if each.name in LOSSES[own.loss].values]
            chosen_loss((takers or [settings[0].loss])[0], {each.name: passed[each.name]})
        for one in settings:
            loss, store = LOSSES[one.loss], stores[one.logits]
            refuse_unserved(store.spec, loss=loss, temperature=one.temperature)
        choose_device(passed["device"])
        refuse_unwritable(options.out)
        return _Work(options=options, passed=passed, stores=stores, held=held, settings=settings)

    @property
    def runs(self) -> list[Run]:
        """All runs, the first seed of every setting first."""
        return [self._run(one, seed) for seed in range(self.options.seeds) for one in self.settings]

    def _run(self, setting: Setting, seed: int) -> Run:
        options, name = self.options, f"{setting.name}_seed-{seed}"
        others = {one.name for one in LOSS_OPTIONS} - {*LOSSES[setting.loss].values}
        return Run(
            name=setting.name,
            seed=seed,
            eval_logits=options.eval_logits,
            options={key: one for key, one in self.passed.items() if key not in others}
            | {
                "logits": options.logits[setting.logits],
                "student": options.student[setting.student],
                "out": options.out / "runs" / name,
                "alpha": setting.alpha,
                "temperature": setting.temperature,
                "loss": setting.loss,
                "lr": setting.lr,
                "seed": seed,
            },
        )

    def dry(self) -> Swept:
        """The runs, and how long they would take by the pace of a few steps of each student."""
        from trainer.sweeping.trial import seconds_of

        runs = self.runs
        expected = seconds_of(runs, jobs=self.options.jobs)
        return Swept(runs=[run.out.name for run in runs], seconds=expected)

    def run(self, on_progress: Any) -> Swept:
        """Carry everything out and write the page."""
        results = Results(self.options.out, held_out=self.held.fingerprint)
        runs = self.runs
        run_all(runs, jobs=self.options.jobs, results=results, on_progress=on_progress)
        found = Sweep(pairs=self._pairs(results), results=results, seeds=self.options.seeds)
        rows = tuple(row_of(found, one, _FIGURES) for one in self.settings)
        models = (*self._students(found), self._teacher(results, on_progress))
        answers = tuple(sentences(found))
        page = self.options.out / _PAGE
        storage, name = LocalStorage.of_file(page)
        try:
            text = written(found, rows=rows, models=models, answers=answers, options=self._told())
            storage.put(name, text.encode())
        except OSError as error:
            raise StorageError("the page cannot be written", place=page, found=error) from error
        return Swept(
            runs=[run.out.name for run in runs],
            rows=rows,
            models=models,
            answers=answers,
            page=page,
        )

    def _pairs(self, results: Results) -> tuple[Pair, ...]:
        stores = short_names([str(one) for one in self.options.logits])
        students = short_names([str(one) for one in self.options.student])
        several = len(stores) * len(students) > 1
        pairs = []
        for store, store_name in enumerate(stores):
            for student, student_name in enumerate(students):
                own = [
                    one for one in self.settings if (one.logits, one.student) == (store, student)
                ]
                sizes = results.figure(own[0].name, "parameters", seeds=self.options.seeds)
                teacher = getattr(self.stores[store].spec.teacher, "parameters", None)
                ratio = teacher / next(iter(sizes.values())) if teacher and sizes else None
                pairs.append(
                    Pair(
                        label=f"{student_name} from {store_name}" if several else "",
                        settings=tuple(own),
                        ratio=ratio,
                    )
                )
        return tuple(pairs)

    def _students(self, found: Sweep) -> list[dict[str, Any]]:
        """A row for the best setting of each pair."""
        rows = []
        for pair in found.pairs:
            best = found.best(pair.settings)
            known = found.results.known(best.name, 0) or {}
            measured = known.get("measured", {})
            rows.append(
                {
                    "name": pair.label or "student",
                    "setting": best.name,
                    "parameters": measured.get("parameters"),
                    "mib": known.get("bytes", 0) / _MIB,
                    "tokens_per_second": measured.get("tokens_per_second"),
                    "loss": found.mean(best),
                    "loss_of_store": False,
                    "kl": measured.get("kl"),
                    "kl_bound": bound_of(measured, "kl"),
                    "ratio": pair.ratio,
                }
            )
        return rows

    def _teacher(self, results: Results, on_progress: Any) -> dict[str, Any]:
        """The teacher beside them: measured where it is named, else what the stores tell."""
        spec, seeds = self.held.spec.teacher, self.options.seeds
        losses = [
            loss
            for one in self.settings
            for loss in results.figure(one.name, "teacher_loss", seeds=seeds).values()
        ]
        row: dict[str, Any] = {
            "name": f"teacher {getattr(spec, 'name', '')}".strip(),
            "setting": None,
            "parameters": getattr(spec, "parameters", None),
            "mib": None,
            "tokens_per_second": None,
            "loss": next(iter(losses), None),
            "loss_of_store": bool(losses),
            "kl": None,
            "kl_bound": {},
            "ratio": 1.0,
        }
        if self.options.teacher is None:
            return row
        tell_stage(on_progress, "measuring the teacher")
        began = time.monotonic()
        found = evaluate(
            self.options.teacher, logits=self.options.eval_logits, device=self.passed["device"]
        )
        path = Path(self.options.teacher)
        sizes = [one.stat().st_size for one in path.glob("*.safetensors")] if path.is_dir() else []
        return row | {
            "parameters": found["parameters"],
            "mib": sum(sizes) / _MIB if sizes else None,
            "tokens_per_second": found["tokens_per_second"],
            "loss": found["loss"],
            "loss_of_store": False,
            "kl": found["kl"],
            "kl_bound": bound_of(found, "kl"),
            "seconds": time.monotonic() - began,
        }

    def _told(self) -> dict[str, Any]:
        """What the page says of how it was made."""
        stores: Sequence[Any] = self.stores
        return {
            "stores": [
                (str(name), one.fingerprint[:12], getattr(one.spec.teacher, "name", "?"))
                for name, one in zip(self.options.logits, stores, strict=True)
            ],
            "students": [str(one) for one in self.options.student],
            "held out": str(self.options.eval_logits),
            "preset": self.options.preset,
            "seeds": self.options.seeds,
            "others": {
                name: value
                for name, value in sorted(self.passed.items())
                if value is not None and name not in ("device", "on_progress", "max_memory")
            },
        }
