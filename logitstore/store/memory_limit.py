"""How much memory reading a store may set aside: `--max-memory`, by default half of the machine's.

A store says how large its blocks are, and may come from anywhere.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from logitstore.errors import SettingError

__all__ = ["machine_bytes", "memory_limit", "parse_bytes"]

_UNITS = {"": 1, **{unit: 1 << (10 * power) for power, unit in enumerate("kmgt", start=1)}}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_LEAST = 1 << 20
# What a container of processes may use, where it is limited: version 2 of cgroups, and version 1.
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def parse_bytes(size: Any) -> int:
    """A number of bytes: an integer, or a text such as "8G" or "500 MiB", in powers of 1024.

    size: as the user wrote it. Raises SettingError for anything else, and for less than 1 MiB.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        found = size
    else:
        match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
        if match is None:
            raise SettingError(
                "is no number of bytes", found=repr(size)[:80], allowed="as in 8G, 500M or 4000000"
            )
        found = int(float(match[1]) * _UNITS[match[2].lower()])
    if found < _LEAST:
        raise SettingError("is too small a size", found=size, allowed="1M or more")
    return found


def memory_limit(size: Any | None) -> int:
    """Bytes that reading may set aside.

    size: as `parse_bytes` takes it; None for half of what the machine has.
    """
    return machine_bytes() // 2 if size is None else parse_bytes(size)


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process runs in, in bytes."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *filter(None, map(_limit_in, _CGROUPS))])


def _limit_in(path: str) -> int | None:
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
