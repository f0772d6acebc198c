"""docs/cli.md is what the programs say of themselves, and names that others rely on stay."""

import subprocess
import sys

import pytest

from tools.cli_docs import PAGE, render

STABLE = {
    "logitstore dump": "--teacher --data --out --text-field --messages-field --max-length --limit "
    "--skip-bad --sparsify --k --top-p --draws --tail-draws --temperature --seed --format "
    "--device --dtype --batch-tokens --unit-tokens",
    "logitstore verify": "--fast --hashes",
    "logitstore inspect": "--json",
    "logitstore audit": "--teacher --documents --json",
    "logitstore estimate": "--teacher --data --sparsify --k --json",
    "logitstore tune": "--teacher --data --json",
    "trainer fit": "--logits --student --out --alpha --temperature --loss --epochs --steps "
    "--batch-tokens --lr --seed --save-steps --resume",
    "trainer eval": "--logits --data --json",
    "trainer student": "--from --layers --out --save-dtype --json",
    "trainer report": "DIR",
}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run `make docs`"


@pytest.mark.parametrize("command", sorted(STABLE))
def test_names_that_scripts_rely_on_are_there(command: str) -> None:
    section = render().split(f"## {command}\n")[1].split("\n## ")[0]
    for name in STABLE[command].split():
        assert name in section


@pytest.mark.parametrize("program", ["logitstore", "trainer"])
def test_help_is_quick_and_loads_no_torch(program: str) -> None:
    script = (
        f"import sys; from {program}.cli import app\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
