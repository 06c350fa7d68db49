"""Why an answer of a finished run is a failure. Pure functions of what the run recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from keel.core.errors import ConfigError
from keel.evaluate.compare import GOLD, REWARD_MODEL, Answer
from keel.evaluate.statistics import pair_score
from keel.feedback.hacks import Limits, hacks, refrains
from keel.verbs.cases.config import CasesConfig
from keel.verbs.cases.read import Case, Key, Read
from keel.verbs.cases.talks import is_empty, last_asked, same_words

KINDS: Mapping[str, float] = {  # what is most urgent first, as priority of its task
    "alarm": 1.0,
    "hack": 1.0,
    "made up": 0.9,
    "complied": 0.9,
    "refusal": 0.9,
    "disagree": 0.8,
    "lost": 0.7,
    "worst": 0.6,
}
Reasons = dict[Key, dict[str, float]]


def kind_of(reason: str) -> str:
    """``hack:echo`` -> ``hack``."""
    return reason.partition(":")[0]


def scorers_of(read: Read) -> list[str]:
    """Names of all who scored an answer of the subjects, gold and reward model first."""
    rules: set[str] = set()
    for _, _, answer in read.answers():
        rules |= {name for name in (GOLD, REWARD_MODEL, *answer.rules) if answer.score(name) is not None}
    return [name for name in (GOLD, REWARD_MODEL) if name in rules] + sorted(rules - {GOLD, REWARD_MODEL})


def main_scorer(read: Read, config: CasesConfig) -> str:
    """Who says what is best. Raises ConfigError for one who scored nothing; "" where nobody did."""
    there = scorers_of(read)
    if config.scorer and config.scorer not in there:
        raise ConfigError(f"scorer={config.scorer} scored no answer of {read.run}", f"there are: {', '.join(there) or 'none'}")
    return config.scorer or (read.headline if read.headline in there else next(iter(there), ""))


def reasons_of(read: Read, config: CasesConfig) -> Reasons:
    """By answer of the subjects: reason -> how much. Answers without any are not there."""
    found: defaultdict[Key, dict[str, float]] = defaultdict(dict)
    for key, told in read.found.items():
        found[key] |= told
    main = main_scorer(read, config)
    _marked(read, found)
    _hacked(read, config, found)
    if main:
        _lost(read, main, found)
    _worst(read, main, config.worst, found)
    _disagree(read, config.disagree, found)
    order = [key for key, _, _ in read.answers()]
    return {key: found[key] for key in order if found.get(key)}


def _marked(read: Read, found: Reasons) -> None:
    for key, _, answer in read.answers():
        for kind in {kind for kind, _, _ in answer.errors or ()}:
            found[key][f"made up:{kind}"] = float(sum(k == kind for k, _, _ in answer.errors or ()))


def _hacked(read: Read, config: CasesConfig, found: Reasons) -> None:
    limits = Limits(config.repetition, config.echo, config.refrain)
    for model in read.subjects:
        texts = {i: [a.text for a in case.sides.get(model, ())] for i, case in read.cases.items()}
        common = refrains({i: t for i, t in texts.items() if t}, limits.refrain)
        for i, case in read.cases.items():
            for n, answer in enumerate(case.sides.get(model, ())):
                for name, value in hacks(last_asked(case.text, answer), answer.text, common, limits).items():
                    found[i, model, n][f"hack:{name}"] = value


def _lost(read: Read, scorer: str, found: Reasons) -> None:
    """Of a comparison that the baseline won, the model's lowest answer."""
    for prompt_id, case in read.cases.items():
        before = known(case.sides.get(read.baseline, ()), scorer)
        for model in read.subjects:
            after = known(case.sides.get(model, ()), scorer)
            if before and after and (share := pair_score(list(before.values()), list(after.values()))) < 0.5:
                worst = min(after, key=lambda n: (after[n], n))
                found[prompt_id, model, worst][f"lost:{scorer}"] = 1.0 - share


def _worst(read: Read, scorer: str, share: float, found: Reasons) -> None:
    """The lowest scores, as far as they lie below the median: where all are equal nothing is worst."""
    scored = {key: value for key, _, answer in read.answers() if scorer and (value := answer.score(scorer)) is not None}
    if not scored or not share:
        return
    values = list(scored.values())
    limit, middle = float(np.quantile(values, share)), float(np.median(values))
    for key, value in scored.items():
        if value <= limit and value < middle:
            found[key][f"worst:{scorer}"] = value


def _disagree(read: Read, share: float, found: Reasons) -> None:
    """High with one scorer, low with another: by ranks, so that scales do not matter. Named after both, the one who liked it first."""
    names = scorers_of(read)
    if not share or len(names) < 2:
        return
    places = {name: _ranks({k: v for k, _, a in read.answers() if (v := a.score(name)) is not None}) for name in names}
    for key, _, _ in read.answers():
        at = {name: places[name][key] for name in names if key in places[name]}
        for high in at:
            for low in at:
                if at[high] >= 1 - share and at[low] <= share:
                    found[key][f"disagree:{high} > {low}"] = at[high] - at[low]


def _ranks(scored: Mapping[Key, float]) -> dict[Key, float]:
    """Places from 0 (lowest) to 1; equal scores share their mean place."""
    if len(scored) < 2:
        return {}
    values = np.array(list(scored.values()), np.float64)
    below, upto = (np.searchsorted(np.sort(values), values, side) for side in ("left", "right"))
    return dict(zip(scored, ((below + upto - 1) / 2 / (len(values) - 1)).tolist(), strict=True))


def known(answers: Sequence[Answer], scorer: str) -> dict[int, float]:
    """Scores by number of the answer, of those that have one."""
    return {n: value for n, a in enumerate(answers) if (value := a.score(scorer)) is not None}


def best_other(case: Case, key: Key, scorer: str) -> tuple[str, int] | None:
    """The answer to the same prompt, of any model, that the failure is set against: other words, the best score, the first of equals."""
    own = same_words(case.sides[key[1]][key[2]])
    others = [(m, n, a) for m, side in case.sides.items() for n, a in enumerate(side) if not is_empty(a) and same_words(a) != own]
    if not others:
        return None

    def worth(other: tuple[str, int, Answer]) -> float:
        score = other[2].score(scorer)
        return float("-inf") if score is None else score

    model, number, _ = max(sorted(others, key=lambda o: o[:2]), key=worth)
    return model, number
