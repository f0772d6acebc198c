"""Data flows one way: nouns, stages, assemblies, command lines, each importing only from below."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import logitstore
import trainer

ROOT = Path(__file__).parent.parent

# Lowest first. A module imports from lower tiers only, never from its own.
TIERS: list[set[str]] = [
    # What everything may name.
    {"logitstore.errors", "logitstore.columns", "logitstore.plan"},
    {"logitstore.fields", "logitstore.settings"},
    # Nouns and the ground under the store: what crosses the arrows, and files.
    {"logitstore.targets", "logitstore.spec", "logitstore.records", "logitstore.files"},
    {"logitstore.documents", "logitstore.layout", "logitstore.card", "logitstore.shards.base"},
    {"logitstore.draws", "logitstore.codec.integers", "logitstore.sparsify.distribution"},
    {"logitstore.codec.values", "logitstore.sparsify.tail", "logitstore.tails"},
    {
        "logitstore.auditing.divergence",
        "logitstore.auditing.gradients",
        "logitstore.auditing",
        "logitstore.forecast",
        "logitstore.sparsify.split",
    },
    {
        "logitstore.codec.rank_delta",
        "logitstore.sparsify.heads",
        "logitstore.sparsify.sampling",
        "logitstore.sparsify.settings",
    },
    # Stages: they know nouns, not each other. Parts of a stage first.
    {
        "logitstore.models",
        "logitstore.sources",
        "logitstore.lm_head",
        "logitstore.tokenizer",
        "logitstore.order",
    },
    {"logitstore.tables", "logitstore.shards.zarr", "logitstore.shards.parquet"},
    {
        "logitstore.codec",
        "logitstore.commit",
        "logitstore.corpus",
        "logitstore.progress",
        "logitstore.shards",
        "logitstore.sparsify",
        "logitstore.teacher",
        "logitstore.text",
    },
    # Assemblies: they know stages.
    {"logitstore.reader", "logitstore.writer", "logitstore.job"},
    {
        "logitstore.forecast.samples",
        "logitstore.forecast.trials",
        "logitstore.forecast.tradeoff",
        "logitstore.forecast.pulls",
    },
    {"logitstore.forecast.tradeoff_figure"},
    {
        "logitstore.dumping",
        "logitstore.forecast.estimate",
        "logitstore.summary",
        "logitstore.forecast.tune",
        "logitstore.verify",
    },
    {"logitstore.auditing.alignment"},
    {"logitstore.auditing.audit"},
    # Command line; and the public names, which are all that `trainer` sees.
    {
        "logitstore.auditing.report",
        "logitstore.console",
        "logitstore.options",
        "logitstore.terminal",
    },
    {"logitstore.cli", "logitstore"},
    # The trainer: nouns, stages, assemblies, command line.
    {"trainer.losses.base", "trainer.losses.targets", "trainer.run", "trainer.report_figures"},
    {
        "trainer.losses.forward_kl",
        "trainer.losses.reverse_kl",
        "trainer.losses.teacher",
        "trainer.losses.views",
        "trainer.student",
        "trainer.report_data",
    },
    {"trainer.losses.renormalised", "trainer.losses.residual_to_label", "trainer.losses.rows"},
    {"trainer.losses"},
    {
        "trainer.comparison",
        "trainer.fused",
        "trainer.rows",
        "trainer.packing",
        "trainer.report",
    },
    {"trainer.batch"},
    {"trainer.loop"},
    {"trainer.distil", "trainer.evaluation"},
    {"trainer.cli", "trainer"},
]


def _modules() -> dict[str, Path]:
    files = [*ROOT.glob("logitstore/**/*.py"), *ROOT.glob("trainer/**/*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules of this project that `path` imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in inner if name in modules]
            yield from found
            if len(found) < len(inner):
                yield node.module


def test_every_module_has_a_tier() -> None:
    placed = [name for tier in TIERS for name in tier]
    assert sorted(placed) == sorted(_modules())


@pytest.mark.parametrize("name", sorted(_modules()))
def test_a_module_imports_from_lower_tiers_only(name: str) -> None:
    modules = _modules()
    height = {module: level for level, tier in enumerate(TIERS) for module in tier}
    wrong = [one for one in _imports(modules[name], modules) if height[one] >= height[name]]
    assert wrong == []


def test_trainer_sees_public_names_of_logitstore_alone() -> None:
    for name, path in _modules().items():
        if not name.startswith("trainer"):
            assert not any(one.startswith("trainer") for one in _imports(path, _modules())), name
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("logitstore"):
                module = (node.module or "").partition(".")[2]
                names = [module] if module else [alias.name for alias in node.names]
                assert set(names) <= set(logitstore.__all__), f"{name} imports {names}"


@pytest.mark.parametrize("package", [logitstore, trainer])
def test_public_names_are_sorted_and_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in names:
        assert getattr(package, name).__name__ if name != "EMPTY_TAIL" else True


@pytest.mark.parametrize("name", ["logitstore", "trainer"])
def test_importing_costs_no_torch(name: str) -> None:
    script = f"import sys, {name}; sys.exit('torch' in sys.modules or 'zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
