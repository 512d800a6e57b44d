"""Whether one key's rights lie within another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

_METERS = ("requests_per_minute", "tokens_per_minute", "concurrent")


def exceeds(
    body: Mapping[str, Any], expires: float | None, own: Mapping[str, Any], own_expires: float | None
) -> str | None:
    """What a key of this ``body`` and expiry would have beyond ``own``, as a sentence; None if nothing."""
    if body.get("admin") and not own.get("admin"):
        return "it would be an administrator"
    return (
        _models(body.get("models"), own.get("models"))
        or _limits(body.get("limits"), own.get("limits"))
        or _budgets(_listed(body.get("budget")), _listed(own.get("budget")))
        or _expires(expires, own_expires)
    )


def _models(models: list[str] | None, own: list[str] | None) -> str | None:
    if own is None:
        return None
    if models is None:
        return f"it would open all models; name those out of {', '.join(own)}"
    more = [name for name in models if name not in own]
    return f"it would open {', '.join(more)}" if more else None


def _limits(limits: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> str | None:
    for meter in _METERS:
        most = (own or {}).get(meter)
        if most is not None:
            amount = (limits or {}).get(meter)
            if amount is None or amount > most:
                return f"its {meter} must be at most {most}"
    return None


def _budgets(budgets: list[Mapping[str, Any]], own: list[Mapping[str, Any]]) -> str | None:
    for most in own:
        if most.get("soft"):
            continue
        per = most.get("per", "month")
        if not any(
            one.get("per", "month") == per and not one.get("soft") and one["usd"] <= most["usd"] for one in budgets
        ):
            span = "in total" if per == "total" else f"per {per}"
            return f"it needs a budget of at most {most['usd']} USD {span}"
    return None


def _expires(expires: float | None, own: float | None) -> str | None:
    if own is not None and (expires is None or expires > own):
        return "it would live longer"
    return None


def _listed(budget: Any) -> list[Mapping[str, Any]]:
    if budget is None:
        return []
    if isinstance(budget, list):
        return cast(list[Mapping[str, Any]], budget)
    return [cast(Mapping[str, Any], budget)]
