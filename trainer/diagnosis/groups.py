"""The sample in parts: by the teacher's entropy, by position, by how frequent the true token is.

Shapes: R targets.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["groups_of"]

_POSITIONS = (1.0, 8.0, 32.0, 128.0, 512.0, math.inf)
_TIMES = (1.0, 2.0, 10.0, 100.0, math.inf)  # that a token occurs among the sample's true tokens
_QUARTERS = (0.25, 0.5, 0.75)
_FIGURES = ("kl", "student_loss", "teacher_loss")


def groups_of(figures: Mapping[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    """Means of KL and of both losses, nats per target, over parts of the sample.

    "by_entropy" has the quarters of the targets by the teacher's entropy, in nats; "by_position"
    parts by the position of the true token in its document; "by_frequency" by how often the true
    token is one in the sample. Each part has "from" and, but for the last, "to", which is outside
    of it but for entropies; parts without a target are left out.

    Args:
        figures: As `measured` gives them.
    """
    label_R = figures["label"].astype(np.int64)
    times_R = np.bincount(label_R)[label_R].astype(np.float64)
    entropy_R = figures["entropy"]
    parts = {
        "by_entropy": _quarters(entropy_R) if np.isfinite(entropy_R).all() else [],
        "by_position": _between(figures["position"], _POSITIONS),
        "by_frequency": _between(times_R, _TIMES),
    }
    return {
        name: [edges | _means(figures, chosen_R) for edges, chosen_R in listed if chosen_R.any()]
        for name, listed in parts.items()
    }


def _quarters(values_R: np.ndarray) -> list[tuple[dict[str, Any], np.ndarray]]:
    low, high = float(values_R.min()), float(values_R.max())
    edges = [low, *np.quantile(values_R, _QUARTERS).tolist(), high]
    place_R = np.searchsorted(edges[1:-1], values_R, side="left")
    return [
        ({"from": edges[part], "to": edges[part + 1]}, place_R == part)
        for part in range(len(edges) - 1)
    ]


def _between(
    values_R: np.ndarray, edges: Sequence[float]
) -> list[tuple[dict[str, Any], np.ndarray]]:
    place_R = np.searchsorted(edges, values_R, side="right") - 1
    return [
        (
            {"from": edges[part]} | ({"to": edges[part + 1]} if edges[part + 1] < math.inf else {}),
            place_R == part,
        )
        for part in range(len(edges) - 1)
    ]


def _means(figures: Mapping[str, np.ndarray], chosen_R: np.ndarray) -> dict[str, Any]:
    means = {
        name: float(figures[name][chosen_R].mean()) if name in figures else None
        for name in _FIGURES
    }
    known = {name: one for name, one in means.items() if one is None or math.isfinite(one)}
    return {"targets": int(chosen_R.sum())} | dict.fromkeys(_FIGURES) | known
