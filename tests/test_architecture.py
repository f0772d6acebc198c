"""Data flows one way: nouns, stages, assemblies, command lines, each importing only from below."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# Lowest first. A module imports from lower tiers only, never from its own.
TIERS: list[set[str]] = [
    # nouns: what crosses the arrows
    {"logitstore.errors"},
    {"logitstore.targets", "logitstore.plan", "logitstore.spec", "logitstore.files"},
    {"logitstore.documents", "logitstore.columns", "logitstore.layout"},
]


def _modules() -> dict[str, Path]:
    files = [*ROOT.glob("logitstore/**/*.py"), *ROOT.glob("trainer/**/*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def _imports(path: Path) -> Iterator[str]:
    """Modules of this project that `path` imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name.split(".")[0] in ("logitstore", "trainer"):
                yield name
