"""What people said of pairs among a run's answers: found by the prompt's last turn and both answers, in a campaign of a store."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keel.feedback.db import Store
from keel.feedback.views import of_store
from keel.verbs.cases.read import Case, Key, Read
from keel.verbs.cases.reasons import Reasons, scorers_of

Votes = Mapping[tuple[str, frozenset[str]], Counter[str]]  # (prompt, both answers) -> votes by answer, "" for a tie


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers that people compared, and how often each was chosen."""

    first: Key
    second: Key
    won: int
    lost: int
    ties: int


def votes_of(store: Store, campaign: str) -> Votes:
    """The votes of a campaign that stand."""
    found: defaultdict[tuple[str, frozenset[str]], Counter[str]] = defaultdict(Counter)
    for c in of_store(store, campaign).comparisons:
        first, second = (x.text.strip() for x in c.candidates)
        found[c.prompt.last_user_text, frozenset((first, second))][{"first": first, "second": second, "tie": ""}[c.outcome]] += 1
    return found


def pairs_of(prompt_id: str, case: Case, votes: Votes) -> Iterator[Pair]:
    """Pairs of the case that have votes; of answers with the same words the first one."""
    places: dict[str, Key] = {}
    for model, side in case.sides.items():
        for n, answer in enumerate(side):
            places.setdefault(answer.text.strip(), (prompt_id, model, n))
    for (a, first), (b, second) in itertools.combinations(places.items(), 2):
        if (said := votes.get((case.text, frozenset((a, b))))) is not None:
            yield Pair(first, second, said[a], said[b], said[""])


def add_people(read: Read, reasons: Reasons, votes: Votes) -> Reasons:
    """The reasons with those that people's votes give: ``lost:people``, and ``disagree:SCORER > people`` where a scorer preferred the
    answer that people did not."""
    found = {key: dict(told) for key, told in reasons.items()}
    names = scorers_of(read)
    for prompt_id, case in read.cases.items():
        for pair in pairs_of(prompt_id, case, votes):
            if pair.won == pair.lost:
                continue
            winner, loser = (pair.first, pair.second) if pair.won > pair.lost else (pair.second, pair.first)
            if loser[1] not in read.subjects:
                continue
            share = max(pair.won, pair.lost) / (pair.won + pair.lost + pair.ties)
            told = found.setdefault(loser, {})
            told["lost:people"] = share
            for name in names:
                low, high = (case.sides[k[1]][k[2]].score(name) for k in (winner, loser))
                if low is not None and high is not None and high > low:
                    told[f"disagree:{name} > people"] = share
    return found
