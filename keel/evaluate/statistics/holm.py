"""Many comparisons at once."""

from __future__ import annotations

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: those at most alpha may be called found, and the chance of any false one among them is at most alpha, however the
    comparisons hang together (Holm 1979). ``p_(i) * (m - i + 1)``, made rising, at most 1."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for i, name in enumerate(sorted(p_values, key=lambda key: (p_values[key], key))):
        p = p_values[name]
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: {p} is no p-value")
        highest = max(highest, min(1.0, p * (len(p_values) - i)))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
