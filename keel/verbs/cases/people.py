"""What people said of pairs among a run's answers: found by what was said before and both answers, in a campaign of a store."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keel.feedback.db import Store
from keel.feedback.questions import Asked, answer_words, asked
from keel.feedback.views import of_store
from keel.verbs.cases.read import Case, Key, Read
from keel.verbs.cases.reasons import Reasons, scorers_of
from keel.verbs.cases.talks import question, same_words

Votes = Mapping[Asked, Counter[str]]  # votes by the words of the answer, "" for a tie


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
    found: defaultdict[Asked, Counter[str]] = defaultdict(Counter)
    for c in of_store(store, campaign).comparisons:
        first, second = (answer_words(x.messages) for x in c.candidates)
        found[asked(c.prompt, (x.messages for x in c.candidates))][{"first": first, "second": second, "tie": ""}[c.outcome]] += 1
    return found


def pairs_of(prompt_id: str, case: Case, votes: Votes) -> Iterator[Pair]:
    """Pairs of the case that have votes; of answers with the same words the first one."""
    places: dict[str, Key] = {}
    for model, side in case.sides.items():
        for n, answer in enumerate(side):
            places.setdefault(same_words(answer), (prompt_id, model, n))
    for first, second in itertools.combinations(places.values(), 2) if votes else ():
        prompt, *both = question(case.prompt, *(case.sides[m][n] for _, m, n in (first, second)))
        if (said := votes.get(asked(prompt, both))) is not None:
            a, b = map(answer_words, both)
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
