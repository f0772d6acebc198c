"""Option values of the Python interface: numbers of any library's type become Python's own."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from logitstore.errors import SettingError

__all__ = ["real", "reals", "whole"]


def whole(option: str, value: Any) -> int:
    """`value` as an int. Raises SettingError for everything that is no whole number, 4.0 too.

    option: its flag, for messages.
    value: of any type.
    """
    try:
        number = int(operator.index(value))
    except TypeError as error:
        raise SettingError(f"{option} must be a whole number", found=repr(value)) from error
    if number.bit_length() >= 64:  # Python refuses to print what is much larger
        raise SettingError(
            f"{option} is out of range", found=f"a number of {number.bit_length()} bits"
        )
    return number


def real(option: str, value: Any) -> float:
    """`value` as a float. Raises SettingError for everything that is no number, "0.5" too.

    option: its flag, for messages.
    value: of any type.
    """
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except OverflowError as error:
        raise SettingError(f"{option} is out of range", found="a number too large") from error
    except (TypeError, ValueError) as error:
        raise SettingError(f"{option} must be a number", found=repr(value)) from error


def reals(option: str, values: Any) -> tuple[float, ...]:
    """`values` as floats. Raises SettingError where they are no list of numbers.

    option: its flag, for messages.
    values: of any type.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise SettingError(f"{option} must be a list of numbers", found=repr(values))
    return tuple(real(option, one) for one in values)
