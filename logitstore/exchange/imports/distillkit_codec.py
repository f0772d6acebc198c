"""What DistillKit's two codecs make of a row's bytes: ids in bits, values as a fitted curve.

Curves are summed in float64, where its own reader sums in float32: coefficients of 5,000 and more
cancel each other, so that depends on the order of the sum, by up to 3e-3 nats.

Shapes: R rows, K entries.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.arrow_rows import matrix
from logitstore.exchange.foreign_documents import SparseRows

__all__ = ["Legacy", "Packed", "ResidualBin"]

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_MOST_ENTRIES, _MOST_IDS, _MOST_TERMS, _MOST_BITS = 4096, 1 << 22, 64, 16


def _unchecked() -> np.errstate:
    """While values are decoded: what is not finite in the end is refused by who takes them."""
    return np.errstate(over="ignore", invalid="ignore")


def _check(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise SettingError(f"--config: {name} is out of range", found=str(value), allowed=allowed)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualBin:
    """Residuals of some entries behind the exact ones."""

    scale_dtype: str
    element_bits: int
    num_elements: int

    def __post_init__(self) -> None:
        _check(self.scale_dtype in _BYTES, "scale_dtype", self.scale_dtype, ", ".join(_BYTES))
        _check(1 <= self.element_bits <= _MOST_BITS, "element_bits", self.element_bits, "1..16")
        _check(
            1 <= self.num_elements <= _MOST_ENTRIES, "num_elements", self.num_elements, "1..4096"
        )

    @property
    def bytes(self) -> int:
        """Of a row."""
        return _BYTES[self.scale_dtype] + (self.element_bits * self.num_elements + 7) // 8

    def residuals(self, raw_RB: np.ndarray) -> np.ndarray:
        """float32 [R, num_elements] of the bytes [R, B] of this bin."""
        width = _BYTES[self.scale_dtype]
        scale_R1 = _floats(raw_RB[:, :width], self.scale_dtype).astype(np.float32)
        codes = _bits(raw_RB[:, width:], count=self.num_elements, bits=self.element_bits)
        codes = codes.astype(np.float32)
        centred = 2 * codes - 1 if self.element_bits == 1 else codes - 2 ** (self.element_bits - 1)
        return (centred * scale_R1).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """Today's codec, by the settings of compression_config.yaml."""

    columns: ClassVar[tuple[str, ...]] = ("compressed_logprobs", "bytepacked_indices")

    d: int
    k: int
    exact_k: int
    exact_dtype: str
    polynomial_terms: tuple[int | str, ...]
    term_dtype: str
    residual_bins: tuple[ResidualBin, ...] = ()
    delta_encoding: bool = False
    error_diffusion: bool = False  # of the writer alone
    normalize_t: bool = False

    def __post_init__(self) -> None:
        _check(2 <= self.d <= _MOST_IDS, "d", self.d, f"2..{_MOST_IDS}")
        _check(1 <= self.k <= min(_MOST_ENTRIES, self.d), "k", self.k, "1..4096, up to d")
        _check(0 <= self.exact_k <= self.k, "exact_k", self.exact_k, "0..k")
        for name in ("exact_dtype", "term_dtype"):
            _check(getattr(self, name) in _BYTES, name, getattr(self, name), ", ".join(_BYTES))
        _check(len(self.polynomial_terms) <= _MOST_TERMS, "polynomial_terms", "too many", "64")
        for one in self.polynomial_terms:
            known = one in ("sqrt", "exp") or (type(one) is int and 0 <= one <= _MOST_TERMS)
            _check(known, "polynomial_terms", one, "powers from 0, sqrt, exp")
        rest = sum(one.num_elements for one in self.residual_bins)
        _check(rest <= self.k - self.exact_k, "residual_bins", rest, "up to k - exact_k elements")

    @property
    def vocab_size(self) -> int:
        """How many ids there may be: one more than the tokenizer had, at least."""
        return self.d

    @property
    def settings(self) -> dict[str, Any]:
        """For the provenance."""
        return asdict(self)

    @property
    def id_bits(self) -> int:
        """Of an id."""
        return max(1, (self.d - 1).bit_length())

    @property
    def value_bytes(self) -> int:
        """Of a row."""
        exact = self.exact_k * _BYTES[self.exact_dtype]
        terms = len(self.polynomial_terms) * _BYTES[self.term_dtype]
        return exact + terms + sum(one.bytes for one in self.residual_bins)

    def decode(self, row: dict[str, Any], place: str) -> SparseRows:
        """The rows of a record. Raises CorpusError where their widths are not those of the config.

        row: the columns by name, as Arrow scalars.
        place: what an error names.
        """
        values_RB, ids_RB = (
            matrix(row[name], kind=int, place=f"{place}, {name}") for name in self.columns
        )
        id_bytes = (self.k * self.id_bits + 7) // 8
        for name, found, width in (
            (self.columns[0], values_RB, self.value_bytes),
            (self.columns[1], ids_RB, id_bytes),
        ):
            wrong = len(found) and found.shape[1] != width
            if wrong or len(found) != len(values_RB):
                raise CorpusError(
                    "rows have another width than the settings say",
                    place=f"{place}, {name}",
                    found=found.shape,
                    allowed=f"{len(values_RB)} rows of {width} bytes",
                    remedy="Give the compression_config.yaml of these files with --config",
                )
        if not len(values_RB):
            values_RB = np.zeros((0, self.value_bytes))
            ids_RB = np.zeros((0, id_bytes))
        ids_RK = _bits(ids_RB.astype(np.uint8), count=self.k, bits=self.id_bits)
        with _unchecked():
            values_RK = self._values(values_RB.astype(np.uint8))
        return SparseRows(
            ids_RK=ids_RK,
            values_RK=values_RK.astype(np.float64),
            used_RK=np.ones(ids_RK.shape, dtype=bool),
        )

    def _values(self, raw_RB: np.ndarray) -> np.ndarray:
        start = self.exact_k * _BYTES[self.exact_dtype]
        exact_RE = _floats(raw_RB[:, :start], self.exact_dtype).astype(np.float32)
        stop = start + len(self.polynomial_terms) * _BYTES[self.term_dtype]
        coefficients_RJ = _floats(raw_RB[:, start:stop], self.term_dtype).astype(np.float64)
        fitted_RF = (coefficients_RJ @ self._terms()).astype(np.float32)
        at = 0
        for one in self.residual_bins:
            part_RN = one.residuals(raw_RB[:, stop : stop + one.bytes])
            fitted_RF[:, at : at + one.num_elements] += part_RN
            stop, at = stop + one.bytes, at + one.num_elements
        values_RK = np.concatenate((exact_RE, fitted_RF), axis=1)
        if self.delta_encoding:
            values_RK = _rounded(np.cumsum(values_RK, axis=1, dtype=np.float32), self.exact_dtype)
        return values_RK

    def _terms(self) -> np.ndarray:
        """float64 [J, F]: the value of each term at each fitted rank."""
        count = self.k - self.exact_k
        t_F = np.linspace(0, 1, count) if self.normalize_t else np.arange(count, dtype=np.float64)
        forms = {"sqrt": np.sqrt, "exp": np.exp}
        rows = [
            forms[one](t_F) if isinstance(one, str) else t_F**one for one in self.polynomial_terms
        ]
        return np.array(rows, dtype=np.float64).reshape(len(rows), count)


@dataclass(frozen=True, kw_only=True, slots=True)
class Legacy:
    """The codec before: ids in words of 64 bits, a polynomial of the rank or of its inverse."""

    columns: ClassVar[tuple[str, ...]] = ("packed_indices", "exact_values", "coeffs")

    k: int
    exact_k: int
    polynomial_degree: int
    vocab_size: int
    invert_polynomial: bool = False
    with_sqrt_term: bool = False
    term_dtype: str = "float32"

    def __post_init__(self) -> None:
        _check(2 <= self.vocab_size <= _MOST_IDS, "vocab_size", self.vocab_size, f"2..{_MOST_IDS}")
        _check(1 <= self.k <= min(_MOST_ENTRIES, self.vocab_size), "k", self.k, "1..4096")
        _check(0 <= self.exact_k <= self.k, "exact_k", self.exact_k, "0..k")
        degree = self.polynomial_degree
        _check(0 <= degree <= _MOST_TERMS, "polynomial_degree", degree, f"0..{_MOST_TERMS}")
        _check(self.term_dtype in _BYTES, "term_dtype", self.term_dtype, ", ".join(_BYTES))

    @property
    def settings(self) -> dict[str, Any]:
        """For the provenance."""
        return asdict(self)

    def decode(self, row: dict[str, Any], place: str) -> SparseRows:
        """The rows of a record; see `Packed.decode`."""
        bits = max(1, (self.vocab_size - 1).bit_length())
        in_word = 64 // bits
        terms = self.polynomial_degree + 1 + self.with_sqrt_term
        widths = (-(-self.k // in_word), self.exact_k, terms)
        parts = []
        for name, kind, width in zip(self.columns, (int, float, float), widths, strict=True):
            found = matrix(row[name], kind=kind, place=f"{place}, {name}")
            if len(found) and found.shape[1] != width:
                raise CorpusError(
                    "rows have another width than the settings say",
                    place=f"{place}, {name}",
                    found=found.shape[1],
                    allowed=width,
                    remedy="Give the settings of these files with --config",
                )
            parts.append(found.reshape(len(found), width))
        words_RW, exact_RE, coefficients_RJ = parts
        if not len(words_RW) == len(exact_RE) == len(coefficients_RJ):
            raise CorpusError("columns differ in their number of rows", place=place)
        shifts = np.arange(in_word, dtype=np.uint64) * np.uint64(bits)
        ids = (words_RW.astype(np.uint64)[:, :, None] >> shifts) & np.uint64((1 << bits) - 1)
        ids_RK = ids.reshape(len(words_RW), -1)[:, : self.k].astype(np.int64)
        with _unchecked():
            fitted_RF = (coefficients_RJ @ self._terms()).astype(np.float32)
            values_RK = np.concatenate((exact_RE.astype(np.float32), fitted_RF), axis=1)
        return SparseRows(
            ids_RK=ids_RK,
            values_RK=values_RK.astype(np.float64),
            used_RK=np.ones(ids_RK.shape, dtype=bool),
        )

    def _terms(self) -> np.ndarray:
        """float64 [J, F]: the value of each term at each fitted rank, from 1."""
        a_F = np.arange(1, self.k - self.exact_k + 1, dtype=np.float64)
        sign = -1.0 if self.invert_polynomial else 1.0
        rows = [a_F ** (sign * power) for power in range(self.polynomial_degree + 1)]
        rows += [np.sqrt(a_F)] if self.with_sqrt_term else []
        return np.array(rows)


def _bits(raw_RB: np.ndarray, *, count: int, bits: int) -> np.ndarray:
    """int64 [R, count]: numbers of `bits` bits, the most significant first, end to end."""
    flat = np.unpackbits(np.ascontiguousarray(raw_RB, dtype=np.uint8), axis=1)[:, : count * bits]
    places = 1 << np.arange(bits - 1, -1, -1, dtype=np.int64)
    return flat.reshape(len(raw_RB), count, bits).astype(np.int64) @ places


def _floats(raw_RB: np.ndarray, dtype: str) -> np.ndarray:
    """[R, n]: little-endian numbers; bfloat16 as float32."""
    raw_RB = np.ascontiguousarray(raw_RB)
    if dtype == "bfloat16":
        return (raw_RB.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    found = raw_RB.view({"float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype])
    return found.astype(np.float32) if dtype == "float16" else found


def _rounded(values_RK: np.ndarray, dtype: str) -> np.ndarray:
    """float32 or float64: values rounded to a type, to even where two are as near."""
    if dtype == "bfloat16":
        bits = values_RK.view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32)
    return values_RK.astype(dtype).astype(np.float64)
