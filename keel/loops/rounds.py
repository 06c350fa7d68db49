"""Which rows an adapter learns from, and when: data that grow are learnt in rounds, each owner's rows in turn. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keel.core.hashing import stable_hash


@dataclass(frozen=True, slots=True)
class Share:
    """What one owner's adapter learns in a round. Rows are told by name."""

    owner: str
    number: int  # of the owner's own rounds before this one
    new: tuple[str, ...]  # rows that it has not seen yet
    again: tuple[str, ...]  # earlier ones beside them
    steps: int  # optimizer steps

    @property
    def rows(self) -> tuple[str, ...]:
        return (*self.new, *self.again)


Round = tuple[Share, ...]


def next_round(
    rows: Mapping[str, Sequence[str]], before: Sequence[Round], replay: float, seed: int, steps_of: Callable[[int], int]
) -> Round:
    """The round of all rows that no round before had; () where there are none. ``rows``: names by owner; ``replay``: earlier rows that are
    still there, as a share of the new ones, drawn by hash; ``steps_of``: steps for so many rows.

    An owner's share is a function of that owner's rows alone: nobody else's data change it."""
    found: list[Share] = []
    for owner in sorted(rows):
        own = [share for round_ in before for share in round_ if share.owner == owner]
        seen = {name for share in own for name in share.new}
        new = tuple(name for name in rows[owner] if name not in seen)
        if not new:
            continue
        by_hash = {stable_hash("again", seed, owner, len(own), name): name for name in rows[owner] if name in seen}
        again = tuple(by_hash[key] for key in sorted(by_hash)[: round(replay * len(new))])
        found.append(Share(owner, len(own), new, again, steps_of(len(new) + len(again))))
    return tuple(found)


def turns(round_: Round) -> list[tuple[Share, int]]:
    """The steps of a round in order: (whose, the owner's own step). Owners take turns until their steps are done."""
    longest = max((share.steps for share in round_), default=0)
    return [(share, k) for k in range(longest) for share in round_ if k < share.steps]


def to_json(rounds: Sequence[Round]) -> list[list[dict[str, Any]]]:
    return [[asdict(share) for share in round_] for round_ in rounds]


def of_json(rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[Round]:
    return [tuple(Share(s["owner"], s["number"], tuple(s["new"]), tuple(s["again"]), s["steps"]) for s in round_) for round_ in rows]
