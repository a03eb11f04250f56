"""Which files ship with clustersim, and which file a word in a scenario or on a command line means.

A reference is a path when it holds a separator or ends in `.yaml`, else the name of a shipped
file. Names are compared without case and with `-`, `_`, spaces and dots alike; devices are also
found by their `aliases`. Shipped files lie in the package, except topologies and scenarios,
which a checkout keeps at its top.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from clustersim.errors import ClusterSimError
from clustersim.spec.documents import read_document, shown_path
from clustersim.spec.suggest import did_you_mean, normalise

Kind = Literal[
    "scenario", "topology", "device", "model", "software", "engine", "fleet", "link", "profile"
]

FOLDERS = MappingProxyType(
    {
        "scenario": "scenarios",
        "topology": "topologies",
        "device": "devices",
        "model": "models",
        "software": "software",
        "engine": "engines",
        "fleet": "fleets",
        "link": "links",
        "profile": "profiles",
    }
)

_PACKAGE = Path(__file__).resolve().parents[1]
_SUFFIXES = (".yaml", ".yml")
_VERSION = re.compile(r"([a-z_]+)-(\d+(?:\.\d+)*)")


class UnknownNameError(ClusterSimError):
    """No file has this name; carries what to say, for the caller who knows the place."""

    def __init__(self, message: str, fix: str):
        self.message, self.fix = message, fix
        super().__init__(message)


def folder(kind: Kind) -> Path:
    """Return the folder of the shipped files of a kind."""
    if kind not in ("scenario", "topology"):
        return _PACKAGE / "data" / FOLDERS[kind]
    packed = _PACKAGE / "shipped" / FOLDERS[kind]
    return packed if packed.is_dir() else _PACKAGE.parent / FOLDERS[kind]


@functools.cache
def _shipped(kind: Kind) -> MappingProxyType[str, Path]:
    files = sorted(path for path in folder(kind).glob("*.yaml") if path.is_file())
    return MappingProxyType({path.name.removesuffix(".yaml"): path for path in files})


def list_names(kind: Kind) -> tuple[str, ...]:
    """Return the names of the shipped files of a kind, sorted."""
    return tuple(_shipped(kind))


def looks_like_path(source: str) -> bool:
    """Say whether a reference is meant as a path rather than as a name."""
    return "/" in source or "\\" in source or source.endswith(_SUFFIXES)


def locate(kind: Kind, source: str | Path, base: Path | None = None) -> Path:
    """Find the file that a reference means.

    Parameters
    ----------
    kind : str
        What is looked for.
    source : str or Path
        A path, or the name of a shipped file with or without `.yaml`.
    base : Path, optional
        Folder against which a relative path is resolved; the current one by default.

    Returns
    -------
    Path
        An existing file.

    Raises
    ------
    UnknownNameError
        There is none; says what was near.
    """
    text = str(source).strip()
    path = (base or Path()) / Path(text).expanduser()
    is_path = isinstance(source, Path) or looks_like_path(text)
    if is_path and path.exists():
        return path
    bare = text.removesuffix(".yaml").removesuffix(".yml")
    found = None if "/" in bare or not bare else _named(kind, bare)
    if found is None and text and not is_path and base is None and path.is_file():
        return path
    if found is None:
        raise UnknownNameError(*_unknown(kind, text, path if is_path else None))
    return found


def _named(kind: Kind, name: str) -> Path | None:
    files = _shipped(kind)
    if name in files:
        return files[name]
    form = normalise(name)
    for known, path in files.items():
        if normalise(known) == form:
            return path
    if kind != "device":
        return None
    for known, words in _device_aliases().items():
        if form in words:
            return files[known]
    return None


@functools.cache
def _device_aliases() -> MappingProxyType[str, frozenset[str]]:
    found = {}
    for name, path in _shipped("device").items():
        data = read_document(path).data
        words = [*(data.get("aliases") or ()), data.get("title") or ""]
        found[name] = frozenset(normalise(str(word)) for word in words if word)
    return MappingProxyType(found)


def _aliases(kind: Kind) -> dict[str, str]:
    """Other words for files of a kind; devices alone have some."""
    words = _device_aliases() if kind == "device" else {}
    return {alias: name for name, own in words.items() for alias in own if alias}


def _older_version(text: str, known: Iterable[str]) -> str | None:
    """The newest known version of the same family that is not newer, such as 0.12 for 0.13."""
    wanted = _VERSION.fullmatch(text.strip().lower())
    if wanted is None:
        return None
    asked, found = _numbers(wanted[2]), []
    for name in known:
        match = _VERSION.fullmatch(name)
        if match and match[1] == wanted[1] and _numbers(match[2]) <= asked:
            found.append((_numbers(match[2]), name))
    return max(found)[1] if found else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _unknown(kind: Kind, text: str, path: Path | None) -> tuple[str, str]:
    """Return the message and the fix for a reference that leads nowhere."""
    listing = f"`clustersim list {FOLDERS[kind]}` shows what ships"
    if not text:
        return f"names no {kind}", listing
    known = {name: name for name in list_names(kind)} | _aliases(kind)
    if path is None:
        older = _older_version(text, known) if kind == "engine" else None
        if older is not None:
            return f"unknown {kind} `{text}`", f"`{older}` is the nearest before it ({listing})"
        hint = did_you_mean(text, known, what=f"known {FOLDERS[kind]}")
        return f"unknown {kind} `{text}`", f"{hint} ({listing})" if hint else listing
    beside = {}
    if path.parent.is_dir():
        beside = {p.name: p.name for p in path.parent.iterdir() if p.name.endswith(_SUFFIXES)}
    names = [*beside, *known]
    hint = did_you_mean(path.name, names) if names else ""
    hint = hint if hint.startswith("did you mean") else ""
    return f"there is no file {shown_path(path)}", f"{hint} ({listing})" if hint else listing
