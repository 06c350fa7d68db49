"""Reasons and names of groups in a page's own language. What the user named (scorers, rules, categories, models) stays as it is."""

from __future__ import annotations

from collections.abc import Mapping

from keel.verbs.cases.reasons import kind_of

Words = Mapping[str, str]


def reason(name: str, words: Words) -> str:
    """``lost:gold`` in words."""
    kind, detail = kind_of(name), name.partition(":")[2]
    if kind == "disagree":
        high, _, low = detail.partition(" > ")
        return words["reason.disagree"].format(high=who(high, words), low=who(low, words))
    return words[f"reason.{kind}"].format(detail=who(detail, words))


def who(name: str, words: Words) -> str:
    """A scorer, a kind of error or of hack: in words where it is Keel's own name, as it stands where it is the user's."""
    return words.get(f"name.{name}", name)


def group(by: str, name: str, words: Words) -> str:
    """A group's name."""
    return reason(name, words) if by == "reason" else who(name, words) if by == "category" else name
