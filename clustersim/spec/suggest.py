"""Did you mean: the nearest known word to one that is not known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SHOWN = 12


def normalise(name: str) -> str:
    """Return a name in the form in which names are compared: lower case, words joined by `_`.

    Parameters
    ----------
    name : str
        In any case; letters beyond a to z separate words as blanks and dashes do.

    Returns
    -------
    str
        Empty where the name has neither letter nor digit.
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like `word`, or None where nothing is near.

    Parameters
    ----------
    word : str
        What was written.
    known : iterable of str
        What could have been written.

    Returns
    -------
    str or None
        As it is spelt in `known`. Near is a similarity of 0.6 by `difflib`; failing that, a word of
        at least three characters that holds the other or is held by it, the shortest first.
    """
    by_form = {normalise(name): name for name in known}
    form = normalise(word)
    close = difflib.get_close_matches(form, by_form, n=1, cutoff=0.6)
    if not close and len(form) >= 3:
        close = sorted((name for name in by_form if form in name or name in form), key=len)[:1]
    return by_form[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str], what: str = "known") -> str:
    """Say what to write instead of `word`.

    Parameters
    ----------
    word : str
        What was written.
    known : iterable of str
        What could have been written.
    what : str
        How to call the known words where none is near.

    Returns
    -------
    str
        ``did you mean `x`?`` or the list of known words; empty where there is none.
    """
    names = list(known)
    near = nearest(word, names)
    if near is not None:
        return f"did you mean `{near}`?"
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}"
