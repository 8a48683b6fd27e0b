"""The policies by name, and what a user may pass for one."""

import difflib
from collections.abc import Mapping
from typing import Final

from trimtab.errors import ConfigError
from trimtab.guard._nonfinite import Nonfinite
from trimtab.guard._olmo import Olmo
from trimtab.guard._policy import FunctionPolicy, Judge, Policy
from trimtab.guard._spike import Spike
from trimtab.guard._zclip_policy import ZClipPolicy

POLICIES: Final[Mapping[str, type[Nonfinite | Olmo | Spike | ZClipPolicy]]] = {
    each.name: each for each in (Nonfinite, Olmo, Spike, ZClipPolicy)
}
"""Policies by the names that settings have for them."""


def as_policy(policy: str | Policy | Judge) -> Policy:
    """Return the policy that a user means.

    Args:
        policy: A name of `POLICIES`, a policy, which is returned as it is, or a function of loss
            (None if it is not known) and gradient norm that returns a 0-d tensor, true for an
            outlier.

    Raises:
        ConfigError: It is something else, or there is no policy of that name.

    Examples:
        >>> as_policy("nonfinite")
        Nonfinite()
    """
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, str):
        if policy not in POLICIES:
            close = difflib.get_close_matches(policy.lower(), list(POLICIES), n=1)
            nearest = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"There is no policy {policy!r}. Known are {', '.join(sorted(POLICIES))}.{nearest}"
            )
        return POLICIES[policy]()
    if isinstance(policy, type) or not callable(policy):
        seen = policy.__name__ if isinstance(policy, type) else repr(policy)
        raise ConfigError(
            f"A policy is a name such as 'spike', an object such as Spike(), or a function of loss "
            f"and gradient norm; got {seen}."
        )
    return FunctionPolicy(policy)
