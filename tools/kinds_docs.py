"""docs/kinds.md, made from the tables of kinds: `python -m tools.kinds_docs` writes it.

A test compares the file with what `render` gives, so the page cannot fall behind the program.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from logitstore.codec import CODECS, build_codec
from logitstore.format.spec import CodecSpec
from logitstore.sparsify import DEFAULT_SPARSIFIER, SPARSIFIERS
from logitstore.sparsify.build import sparsifier_spec
from logitstore.targets.sparsifier import Sparsifier
from trainer.losses import LOSSES, SPAN_LOSSES

__all__ = ["PAGE", "render"]

PAGE = Path(__file__).parent.parent / "docs" / "kinds.md"

_HEAD = """# Sparsifiers, codecs and losses

Made from their declarations by `make docs`; do not edit. What each declares is said once, in its
own module; [architecture](architecture.md) says how to add one.
"""
_BOUNDS = {
    "lower": "a lower bound",
    "upper": "an upper bound",
    "none": "no bound",
    "same": "the same value",
}
_VOCABULARY = 32_768  # for the codecs: what they state does not depend on it


def render() -> str:
    """The page."""
    return "\n".join([_HEAD, _sparsifiers(), _codecs(), _losses()])


def _sparsifiers() -> str:
    rows = (
        (
            f"`{one.name}`" + (" (default)" if one.name == DEFAULT_SPARSIFIER else ""),
            " ".join(f"`{option.flag} {default}`" for option, default in one.options.items()),
            one.summary,
            one.targets.entries.value,
            "yes" if one.targets.keeps_tail else "no",
            "yes" if one.targets.weights_sum_to_one else "no",
            one.targets.serves,
            f"`{one.codec}`",
        )
        for one in SPARSIFIERS.values()
    )
    heads = (
        "`--sparsify`",
        "options",
        "keeps of a distribution",
        "entries",
        "tail",
        "weights sum to 1",
        "serves",
        "codec",
    )
    return f"## Sparsifiers\n\n{_table(heads, rows)}"


def _codecs() -> str:
    rows = (
        (
            f"`{kind.id}`",
            kind.summary,
            fidelity,
            ", ".join(f"{name} {value}" for name, value in parameters.items()),
            f"{stated[0]:.2g}",
            f"{stated[1]:.2g}",
        )
        for kind in CODECS.values()
        for fidelity, parameters in kind.presets.items()
        if (stated := _stated(kind.id, dict(parameters)))
    )
    heads = ("codec", "stores", "`--fidelity`", "parameters", "stated KL", "of a drawn estimate")
    note = (
        "*Stated KL* (nats a target, in the mean) is what coding may cost; an audit allows it. The "
        "last column is by how much coding may shift a KL that is estimated from drawn weights. "
        "Codecs that no sparsifier above names are those of older stores.\n"
    )
    return f"## Codecs\n\n{note}\n{_table(heads, rows)}"


def _stated(codec: str, parameters: dict[str, int]) -> tuple[float, float]:
    owner: Sparsifier = next(
        one for one in SPARSIFIERS.values() if codec in (one.codec, *one.older_codecs)
    )
    spec = CodecSpec(id=codec, parameters=parameters)
    built = build_codec(spec, sparsifier_spec(owner.name), vocab_size=_VOCABULARY)
    return built.stated_kl, built.stated_drawn_kl


def _losses() -> str:
    rows = (
        (
            f"`{one.name}`",
            " ".join(f"`{option.flag} {default}`" for option, default in one.options.items()),
            one.summary,
            "yes" if one.linear else "no",
            one.tail,
            _BOUNDS[one.bound],
            "yes" if one.serves_drawn else "no",
            "yes" if one.times_temperature_squared else "no",
        )
        for one in LOSSES.values()
    )
    heads = (
        "`--loss`",
        "options",
        "what it is",
        "linear in the teacher",
        "the tail's mass",
        "over entries and bucket",
        "from drawn entries",
        "times T²",
    )
    note = (
        "*Over entries and bucket* says what the value from kept entries and one bucket of all "
        "other tokens is of the value over all tokens. Merging outcomes never increases an "
        "f-divergence, hence the lower bounds; where all tokens are kept (K = V) every loss is "
        "exact. What each computes: [losses](losses.md).\n"
    )
    return f"## Losses\n\n{note}\n{_table(heads, rows)}\n{_span_losses()}"


def _span_losses() -> str:
    rows = (
        (
            f"`{one.name}`",
            one.summary,
            "spans of text" if one.of_spans is not None else "the K largest probabilities",
            "any" if one.of_spans is not None else "that keeps a tail",
        )
        for one in SPAN_LOSSES.values()
    )
    heads = ("`--loss`", "what it is", "compares", "sparsifier")
    note = "For a student of another tokenizer: [cross-tokenizer](cross-tokenizer.md)."
    return f"{note}\n\n{_table(heads, rows)}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render())
