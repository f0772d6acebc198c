"""Data flows one way: a folder for each stage, each importing only from those above it."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import logitstore
import trainer
from logitstore import plumbing

ROOT = Path(__file__).parent.parent

# Lowest first. A folder imports from itself and from folders above it in this list; a module that
# stands in no folder has a line of its own. The tree of docs/architecture.md names the same.
RANKS = [
    "logitstore.errors",
    "logitstore.lazy",
    "logitstore.version",
    "logitstore.format",
    "logitstore.options",
    "logitstore.own_options",
    "logitstore.progress",
    "logitstore.targets",
    "logitstore.corpus",
    "logitstore.teacher",
    "logitstore.sparsify",
    "logitstore.codec",
    "logitstore.store",
    "logitstore.dumping",
    "logitstore.sharing",
    "logitstore.generation",
    "logitstore.fidelity",
    "logitstore.forecast",
    "logitstore.editing",
    "logitstore.exchange",
    "logitstore.viewing",
    "logitstore.serving",
    "logitstore.cli",
    "logitstore.plumbing",
    "logitstore",
    "logitstore.__main__",
    "trainer.data",
    "trainer.losses",
    "trainer.advice",
    "trainer.training",
    "trainer.pruning",
    "trainer.evaluation",
    "trainer.diagnosis",
    "trainer.reporting",
    "trainer.sweeping",
    "trainer.cli",
    "trainer",
    "trainer.__main__",
]


def _modules() -> dict[str, Path]:
    files = [*ROOT.glob("logitstore/**/*.py"), *ROOT.glob("trainer/**/*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def _packages() -> list[str]:
    return sorted(name for name, path in _modules().items() if path.name == "__init__.py")


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


def _rank(module: str) -> int:
    """The place in RANKS of the folder in which `module` stands, or of the module itself."""
    parts = module.split(".")
    return RANKS.index(module if module in RANKS else ".".join(parts[:2]))


@pytest.mark.parametrize("name", sorted(_modules()))
def test_a_folder_imports_only_from_those_above_it(name: str) -> None:
    modules = _modules()
    wrong = [one for one in _imports(modules[name], modules) if _rank(one) > _rank(name)]
    # The two packages' own modules alone import their names from everywhere below.
    assert wrong == []


def test_nothing_imports_in_circles() -> None:
    modules = _modules()
    sorter = TopologicalSorter(
        {name: set(_imports(path, modules)) - {name} for name, path in modules.items()}
    )
    sorter.prepare()  # raises CycleError, which names the circle


def test_trainer_sees_public_names_and_plumbing_of_logitstore_alone() -> None:
    allowed = {"logitstore": logitstore.__all__, "logitstore.plumbing": plumbing.__all__}
    for name, path in _modules().items():
        if not name.startswith("trainer"):
            assert not any(one.startswith("trainer") for one in _imports(path, _modules())), name
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("logitstore"):
                names = {alias.name for alias in node.names}
                assert names <= {*allowed[node.module or ""], "plumbing"}, f"{name}: {names}"


@pytest.mark.parametrize("package", [logitstore, plumbing, trainer])
def test_public_names_are_sorted_and_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in names:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("name", [*_packages()])
def test_no_module_takes_the_place_of_a_public_name_of_its_package(name: str) -> None:
    package = import_module(name)
    for one in pkgutil.iter_modules(package.__path__):
        if one.name in getattr(package, "__all__", ()):
            import_module(f"{name}.{one.name}")  # which sets the name in the package
            assert not inspect.ismodule(getattr(package, one.name)), one.name


@pytest.mark.parametrize("name", ["logitstore", "logitstore.plumbing", "trainer"])
def test_importing_costs_no_torch(name: str) -> None:
    script = f"import sys, {name}; sys.exit('torch' in sys.modules or 'zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
