"""Which files a user names: paths as they are, folders opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clustersim.errors import Problem, SpecError


def files_in(paths: Iterable[Path], suffixes: tuple[str, ...], what: str) -> list[Path]:
    """Files of the given paths, each once: folders are opened and sorted.

    Parameters
    ----------
    paths : iterable of Path
        Files, taken whatever their name, and folders.
    suffixes : tuple of str
        Of the files of a folder.
    what : str
        What they hold, for messages.

    Raises
    ------
    SpecError
        For every path that does not exist and every folder without such a file.
    """
    found: list[Path] = []
    problems = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.suffix in suffixes)
        if not path.exists():
            problems.append(Problem("no such file or folder", f"name a file of {what}", str(path)))
        elif not inside:
            fix = f"put {what} in it as {', '.join(suffixes)}"
            problems.append(Problem(f"the folder holds no {what}", fix, str(path)))
        found += inside
    if problems:
        raise SpecError(problems)
    return list(dict.fromkeys(found))
