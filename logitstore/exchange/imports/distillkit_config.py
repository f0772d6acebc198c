"""The settings of DistillKit's codecs, from YAML: a file beside the data, or `--config`."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar

from logitstore.corpus.sources import reading
from logitstore.errors import CorpusError, SettingError
from logitstore.exchange.imports.distillkit_codec import Legacy, Packed, ResidualBin

if TYPE_CHECKING:
    from pathlib import Path

    from logitstore.exchange.foreign_files import Request

__all__ = ["read_config"]

T = TypeVar("T", Packed, Legacy)

_NAME = "compression_config.yaml"
_SECTIONS = ("legacy_logit_compression", "logprob_compressor")  # of a larger configuration
_MOST_BYTES = 1 << 16


def read_config(request: Request, *, kind: type[T]) -> T:
    """The settings of a codec. Raises SettingError where they are missing or wrong.

    request: what was asked for.
    kind: of the codec, `Packed` or `Legacy`.
    """
    folder = request.source if request.source.is_dir() else request.source.parent
    path = request.config or folder / _NAME
    if request.config is None and (kind is Legacy or not path.is_file()):
        raise SettingError(
            "--config is missing: the files do not say how they were coded",
            place=str(request.source),
            allowed=f"the YAML file with {', '.join(one.name for one in fields(kind))}",
        )
    content = _read(path)
    for section in _SECTIONS:
        if isinstance(content.get(section), dict):
            content = content[section]
    content = {name.replace("-", "_"): value for name, value in content.items()}
    return _built(kind, content, place=str(path))


def _read(path: Path) -> dict[str, Any]:
    import yaml

    with reading(str(path)), path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise CorpusError("the file of settings is too large", place=str(path), allowed=_MOST_BYTES)
    try:
        content = yaml.load(data, Loader=_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())[:200]
        raise SettingError(f"--config is no YAML: {problem}", place=str(path)) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SettingError("--config holds no settings", place=str(path))
    return content


def _loader() -> Any:
    """YAML's safe loader, which also refuses a name that stands twice: the last would count."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for name, _ in node.value:
                if isinstance(name.value, str) and name.value in seen:
                    raise yaml.YAMLError(f"{name.value!r} stands twice")
                seen.add(str(name.value))
            return super().construct_mapping(node, deep)

    return Loader


def _built(kind: type[T], content: dict[str, Any], *, place: str) -> T:
    wanted = {one.name: one for one in fields(kind)}
    missing = [
        name for name, one in wanted.items() if one.default is MISSING and name not in content
    ]
    if missing or set(content) - set(wanted):
        raise SettingError(
            "--config has settings missing or unknown",
            place=place,
            found=", ".join(sorted(set(content) - set(wanted))) or f"no {', '.join(missing)}",
            allowed=", ".join(wanted),
        )
    found = {
        name: _typed(one.type, name, content[name], place)
        for name, one in wanted.items()
        if name in content
    }
    return kind(**found)


def _typed(hint: Any, name: str, value: Any, place: str) -> Any:
    """A value by the annotation of its field."""
    if name == "residual_bins" and isinstance(value, list):
        keys = {one.name for one in fields(ResidualBin)}
        if all(isinstance(one, dict) and set(one) == keys for one in value):
            return tuple(
                ResidualBin(**{key: _typed(_BIN[key], key, one[key], place) for key in keys})
                for one in value
            )
    elif name == "polynomial_terms" and isinstance(value, list):
        return tuple(value)
    elif type(value).__name__ == hint:
        return value
    raise SettingError(
        "--config has a value of another type", place=place, found=f"{name}: {value}"
    )


_BIN = {one.name: one.type for one in fields(ResidualBin)}
