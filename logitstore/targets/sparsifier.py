"""What a sparsifier declares: its targets, its options, its codec and its function.

Help texts, Python signatures, the tables of the documentation, `tune` and the tests use these
declarations, which are in `logitstore/sparsify/`. Importing them does not import torch.

Shapes: R targets, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from logitstore.errors import CorruptionError, SettingError
from logitstore.targets.kinds import Entries, TargetKind

if TYPE_CHECKING:
    import numpy as np
    import torch

    from logitstore.format.spec import SparsifierSpec
    from logitstore.options import Option
    from logitstore.targets.targets import SparseTargets

__all__ = ["Draw", "Sparsifier"]

# (logits_RV, labels_R, keys_R, spec) -> one SparseTargets for each of `spec.draw_count` draws.
# `logits_RV` is float32 and may be overwritten; `labels_R` (int64) are the tokens that really
# follow. Random numbers depend on `keys_R` (uint64) and the number of the draw only. Raises
# ModelError where a row of logits is not a distribution.
Draw: TypeAlias = Callable[
    ["torch.Tensor", "torch.Tensor", "np.ndarray", "SparsifierSpec"], "tuple[SparseTargets, ...]"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sparsifier:
    """One way to make sparse targets from dense distributions.

    To add a sparsifier, write a module in `logitstore/sparsify/` that makes a `Sparsifier`, and add
    it to the table `SPARSIFIERS`. Its options are then options of the command lines and of Python,
    and the tests and `tune` run it. Raises TypeError where `room` or `compared` names an option
    that is not in `options`.
    """

    name: str  # as `--sparsify` takes it
    summary: str  # what is kept of a distribution, in a few words, for help texts and tables
    targets: TargetKind
    options: Mapping[Option, Any]  # the options that it takes, each with its default
    # The options whose sum is K, the entries that a row has room for. Of several the first counts
    # the entries that are exact for sure, the others those that are drawn.
    room: tuple[str, ...]
    codec: str  # id of the codec that stores its targets
    draw: Draw
    older_codecs: tuple[str, ...] = ()  # ids of those that older stores of it may have
    compared: tuple[
        Mapping[str, Any], ...
    ] = ()  # settings that `tune` tries; with none it is left out

    def __post_init__(self) -> None:
        names = {one.name for one in self.options}
        wrong = [
            name
            for name in (*self.room, *(n for one in self.compared for n in one))
            if name not in names
        ]
        if wrong or not self.room:
            raise TypeError(f"sparsifier {self.name} takes no option {', '.join(wrong) or 'for K'}")

    @property
    def defaults(self) -> dict[str, Any]:
        """The names of its options, with their defaults."""
        return {one.name: default for one, default in self.options.items()}

    @property
    def stored_options(self) -> set[str]:
        """The options that a spec holds by name; the first of `room` follows from K."""
        return set(self.defaults) - {self.room[0]}

    def asked(self, spec: SparsifierSpec) -> dict[str, Any]:
        """The values of its options from which `spec`, a spec of this sparsifier, was made."""
        first = spec.k - sum(int(spec.options[name]) for name in self.room[1:])
        return {self.room[0]: first, **spec.options}

    def settings(self, spec: SparsifierSpec) -> dict[str, str]:
        """The settings that led to `spec`, one of this sparsifier's, by the flags of options."""
        asked = self.asked(spec)
        temperatures = spec.temperatures or tuple(1 / node for node in spec.tail_nodes)
        return {
            "--temperature": ", ".join(f"{one:g}" for one in temperatures),
            **{one.flag: str(asked[one.name]) for one in self.options},
        }

    def entries(self, spec: SparsifierSpec) -> str:
        """The entries that a target of `spec` has room for, in words."""
        if self.targets.keeps_state:
            return f"a hidden state + {spec.k} entries"
        if len(self.room) == 1:
            return f"{spec.k} {'draws' if self.targets.entries is Entries.COUNTED else 'entries'}"
        exact = self.asked(spec)[self.room[0]]
        return f"{exact} exact + {spec.k - exact} drawn entries"

    def served(self, spec: SparsifierSpec) -> str:
        """The temperatures at which targets of `spec` can be used, in words."""
        if self.targets.entries is Entries.SHARES:
            return "any, for the entries alone"
        if self.targets.keeps_state:
            return "any"
        if not self.targets.keeps_tail:
            return ", ".join(f"{one:g}" for one in spec.temperatures)
        if len(spec.tail_nodes) == 1:
            return "1"
        highest = max(10.0, *(1 / node for node in spec.tail_nodes))
        return "1 to 10" if highest == 10.0 else f"1 to 10, {highest:g}"

    def check_vocabulary(self, spec: SparsifierSpec, *, vocab_size: int) -> None:
        """Raise SettingError where a row of `spec` has more entries than there are tokens.

        A target that is drawn with replacement may have more draws than there are tokens.

        Args:
            spec: A spec of this sparsifier.
            vocab_size: The number of tokens, V.
        """
        if spec.k > vocab_size and self.targets.entries is not Entries.COUNTED:
            raise SettingError(
                "a row cannot have more entries than the tokenizer has tokens",
                found=spec.k,
                allowed=f"1..{vocab_size}",
                remedy=f"Give a smaller --{self.room[0].replace('_', '-')}",
            )

    def check_spec(self, spec: SparsifierSpec, *, place: str) -> None:
        """Raise CorruptionError where a spec cannot be one of this sparsifier.

        Args:
            spec: The spec that was read from a store.
            place: What the error names as the place.
        """
        if set(spec.options) != self.stored_options:
            raise CorruptionError(
                f"options of sparsifier {self.name} are missing or unknown",
                place=place,
                found=", ".join(sorted(spec.options)) or "none",
                allowed=", ".join(sorted(self.stored_options)) or "none",
            )
        draws_anew = self.targets.drawn and not self.targets.keeps_tail
        if self.targets.keeps_tail != bool(spec.tail_nodes) or (
            draws_anew != bool(spec.temperatures)
        ):
            needed = "draws at some temperatures" if draws_anew else "keeps no draws"
            raise CorruptionError(
                f"sparsifier {self.name} keeps the tail's mass at some nodes"
                if self.targets.keeps_tail
                else f"sparsifier {self.name} {needed}",
                place=place,
                found=f"tail_nodes {spec.tail_nodes}, temperatures {spec.temperatures}",
            )
        asked = self.asked(spec)
        for one in self.options:
            try:
                one.check(asked[one.name])
            except SettingError as error:
                raise CorruptionError(
                    f"{one.name} is out of range",
                    place=place,
                    found=asked[one.name],
                    allowed=error.allowed,
                ) from error
