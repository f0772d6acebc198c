"""The command line `trainer`: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from logitstore.plumbing import print_json, quiet_libraries, reporting_errors

__all__ = ["app", "main"]

app = typer.Typer(
    name="trainer",
    help="Distil students from a store of a teacher's distributions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]
# In words, for the table itself would cost the import of torch.
_LOSS_HELP = (
    "Divergence from the teacher: forward_kl, reverse_kl, renormalised (the head alone, biased) or "
    "residual_to_label (what the head lacks goes to the true token)."
)
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]


@app.command()
def fit(
    logits: Annotated[str, typer.Option(help="The store to learn from.")],
    student: Annotated[
        str, typer.Option(help="Transformers folder, Hub id, or a config .json: fresh weights.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    alpha: Annotated[
        float, typer.Option(help="Weight of the teacher's distribution; the rest is hard labels.")
    ] = 0.9,
    temperature: Annotated[float, typer.Option(help="Softens both distributions.")] = 1.0,
    loss: Annotated[str, typer.Option(help=_LOSS_HELP)] = "forward_kl",
    epochs: Annotated[int | None, typer.Option(help="Passes over the store. Default: 1.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of --epochs.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of an optimiser step, all ranks.")] = (
        16_384
    ),
    micro_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one forward pass at most. Default: about 4096.")
    ] = None,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-4,
    warmup: Annotated[float, typer.Option(help="Share of the steps that warm up.")] = 0.03,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the order and of fresh weights.")] = 0,
    window: Annotated[
        int | None, typer.Option(help="Blocks of a lane shuffled together. Default: 1 GiB of all.")
    ] = None,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    log_steps: Annotated[int, typer.Option(help="Steps between reports.")] = 10,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an unfinished run, or begin it.")
    ] = False,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 (autocast), or auto.")] = "auto",
    json: JsonOption = False,
) -> None:
    """Distil a student from a store."""
    settings = {name: value for name, value in locals().items() if name not in ("out", "json")}
    with reporting_errors(json=json, again="Run the same command with --resume to go on"):
        quiet_libraries()
        from trainer.training.fit import fit as run

        reports: list[dict[str, float]] = []
        result = run(out=out, report=lambda one: _report(one, reports), **settings)
        if json:
            print_json(result)
        elif not reports:
            print(f"{out}: finished before, left as it is")
        else:
            print(f"{out}: {result['settings']['steps']} steps, {_words(result['metrics'])}")


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder, or a Hub id.")],
    logits: Annotated[str | None, typer.Option(help="A store of held-out text.")] = None,
    data: Annotated[str | None, typer.Option(help="Held-out text, without a teacher.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the KL to the teacher.")] = 1.0,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one forward pass.")] = 4096,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a document of --data. Default: 1024 at most.")
    ] = None,
    text_field: Annotated[str | None, typer.Option(help="Field of the text in --data.")] = None,
    messages_field: Annotated[str | None, typer.Option(help="Field of a chat in --data.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for eval.json. Default with --logits: MODEL, if a run."),
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a model on held-out text, and against the teacher where a store is given."""
    settings = {name: value for name, value in locals().items() if name not in ("model", "json")}
    with reporting_errors(json=json, again="Run the same command again"):
        quiet_libraries()
        from trainer.evaluation.measure import evaluate as run

        result = run(model, **settings)
        if json:
            print_json(result)
        else:
            _print_evaluation(result)


@app.command()
def report(
    dirs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Runs to compare.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    json: JsonOption = False,
) -> None:
    """Compare runs on one page."""
    with reporting_errors(json=json, again="Run the same command again"):
        from trainer.report.page import print_table, write_report

        page = write_report(dirs, out=out)
        if json:
            print_json({"report": str(page.path), "rows": page.rows, "notes": page.notes})
        else:
            print_table(page)


def main() -> None:
    """Entry point of the console script."""
    app()


def _report(one: dict[str, float], reports: list[dict[str, float]]) -> None:
    """One line on standard error for each report of the loss."""
    reports.append(one)
    print(f"step {one['step']}  {_words(one)}  {one['seconds']:.0f} s", file=sys.stderr)


def _words(one: dict[str, float]) -> str:
    terms = ""
    if "kl_head" in one:
        terms = f" (binary {one['kl_binary']:.4f}, head {one['kl_head']:.4f})"
    if abs(one.get("divergence", one["kl"]) - one["kl"]) > _SAME:  # another loss than forward KL
        terms += f"  divergence {one['divergence']:.4f}"
    top = f"  top-1 {one['agreement']:.1%}" if "agreement" in one else ""
    return f"loss {one['loss']:.4f}  ce {one['ce']:.4f}  kl {one['kl']:.4f}{terms}{top}"


_SAME = 1e-4  # nats


_SIGNS = {"lower": ">= ", "upper": "<= ", "estimate": "~ "}


def _print_evaluation(result: dict[str, Any]) -> None:
    bounds = result["bounds"]
    for name, value in result.items():
        if isinstance(value, float):
            print(f"{name:18} {_SIGNS.get(bounds.get(name), '')}{value:.4f}")
        elif isinstance(value, int | str):
            print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
