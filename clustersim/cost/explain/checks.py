"""What an explanation refuses, and where the coefficients that it takes come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from clustersim.errors import ModelDomainError
from clustersim.spec.profile import Profile
from clustersim.spec.suggest import did_you_mean

C = TypeVar("C")
MOST_EXPERTS = 2**14  # routings are drawn expert by expert

# Groups of a profile that an operator can be priced by.
GROUPS = (
    *("gemm", "attention", "elementwise", "prefill", "decode", "mla_prefill", "mla_decode"),
    *("mla_module", "moe", "expert_exchange", "transfer"),
)


def check_divides(flag: str, part: int, whole_flag: str, whole: int) -> None:
    """Refuse a part that does not divide its whole.

    Parameters
    ----------
    flag, whole_flag : str
        Options that gave the two, as the message names them.
    part, whole : int
        The whole is at least 1.

    Raises
    ------
    ModelDomainError
        There is a remainder, or the part is below 1; the message says what to use.
    """
    if part < 1 or whole % part:
        raise ModelDomainError(
            f"{flag} {part} does not divide {whole_flag} {whole}\n  fix: use a divisor of {whole}"
        )


def check_keys(q_len: int, kv_len: int, flag: str = "--kv-len") -> None:
    """Refuse fewer keys than queries: those of a causal core stand at the end of its keys.

    Parameters
    ----------
    q_len, kv_len : int
        Queries and keys of a sequence.
    flag : str
        Option that gave the keys, as the message names it.

    Raises
    ------
    ModelDomainError
        There are fewer keys.
    """
    if kv_len < q_len:
        raise ModelDomainError(
            f"{flag} {kv_len} is below --q-len {q_len}: the queries of a causal core stand at "
            f"the end of its keys\n  fix: use at least {q_len} keys"
        )


def check_experts(experts: int, top_k: int) -> None:
    """Refuse more experts than the models are stated for, or a token that takes too many.

    Parameters
    ----------
    experts : int
        Of a layer, at most `MOST_EXPERTS`.
    top_k : int
        Experts that a token takes, at most all.

    Raises
    ------
    ModelDomainError
        Either is too many.
    """
    if experts > MOST_EXPERTS:
        raise ModelDomainError(
            f"--experts {experts} is outside the model's domain\n  fix: use 1 to {MOST_EXPERTS}"
        )
    if top_k > experts:
        raise ModelDomainError(
            f"--top-k {top_k} is more than --experts {experts}\n  fix: use at most {experts}"
        )


def check_group(profile: Profile, group: str, what: str, key: str = "") -> None:
    """Refuse a profile that cannot price an operator, and say what it has.

    Parameters
    ----------
    profile : Profile
    group : str
        Field of the profile that holds the coefficients.
    what : str
        The operator in words.
    key : str
        Entry of the group that no other stands in for; "" where any will do.

    Raises
    ------
    ModelDomainError
        The group is empty, or has no such entry.
    """
    table = getattr(profile, group)
    if not table:
        has = ", ".join(name for name in GROUPS if getattr(profile, name))
        raise ModelDomainError(
            f"profile {profile.name} has no coefficients of {what}\n"
            f"  fix: use another device; of this one there are coefficients of {has}"
        )
    if key and key not in table:
        hint = did_you_mean(key, sorted(table), what="it has")
        raise ModelDomainError(
            f"profile {profile.name} has no coefficients of {what} for `{key}`\n  fix: {hint}"
        )


def key_of(table: Mapping[str, C], found: C) -> str:
    """Key under which a profile holds these coefficients.

    Parameters
    ----------
    table : mapping of str to C
        One group of a profile.
    found : C
        The very object that the table holds: equal ones do not count.

    Returns
    -------
    str
        The first key that holds it.

    Raises
    ------
    ModelDomainError
        The table does not hold it.
    """
    for key, c in table.items():
        if c is found:
            return key
    raise ModelDomainError(
        "the coefficients are not those of this profile\n"
        f"  fix: take them from its entries {', '.join(table) or 'none'}"
    )


def stand_in_notes(asked: str, used: str) -> list[str]:
    """Say where another datatype's coefficients stand in; 16-bit types run alike.

    Parameters
    ----------
    asked, used : str
        Datatype that was asked for, and the one whose coefficients were taken.

    Returns
    -------
    list of str
        One note or none.
    """
    half = ("bf16", "fp16")
    if asked == used or (asked in half and used in half):
        return []
    return [f"coefficients of {used} stand in for {asked}: nothing of it was fitted"]
