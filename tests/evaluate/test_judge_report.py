"""Judges with known biases: every number of the report comes back within its interval, and the gate refuses what it must."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keel.core.errors import ConfigError, DataError
from keel.evaluate import judge_batteries
from keel.evaluate.judge_labels import Labelled, labelled
from keel.evaluate.judge_measures import JudgedPair, Measuring, calibration, kappa, majority, measure, price
from keel.evaluate.judge_report import JudgeReportConfig, headline, judge_report
from keel.evaluate.reward_judge import RewardModelJudge
from keel.evaluate.statistics import cluster_totals
from keel.feedback.agreement import cohen_kappa
from keel.judges.ask import SIDES, Question, Said, failed
from keel.judges.config import RewardModelConfig, ScriptedConfig
from keel.judges.gate import GateConfig, admit, decide, read_report
from keel.judges.orders import Verdict, combine, verdicts
from keel.judges.scripted import ScriptedJudge
from keel.judges.templates import load_template, write
from keel.rewards.score import Score
from keel.types import Candidate, Comparison, ImagePart, Message, Pair, Prompt, TextPart

BIASED = {"position": 0.8, "length": 0.4, "own": 0.7, "noise": 1.0, "tie": 0.3, "family": "f", "fails": 0.03, "price": 0.01}
SOFT = {"hard": False, "quality": 3.0}


def world(n: int, seed: int, people: int = 5) -> list[Labelled]:
    """Pairs whose worth is known, and people who see it through noise: two pairs a prompt, so that prompts are clusters."""
    rng = random.Random(seed)
    found: list[Labelled] = []
    for k in range(n):
        prompt = Prompt(f"p{seed}-{k // 2}", (Message("user", f"Question {k // 2} of {seed}?"),))
        worth = [rng.gauss(0, 1) for _ in range(2)]
        family = [rng.choice(["f", "g"]) for _ in range(2)]
        texts = [f"answer {i} to {k} of {seed}" + " more" * rng.randrange(1, 30) for i in range(2)]
        answers = tuple(Candidate(f"{k}-{i}", texts[i], {"quality": worth[i], "family": family[i]}) for i in range(2))
        votes = []
        for _ in range(people):
            u = rng.random()
            seen = worth[0] - worth[1] + math.log(u / (1 - u))  # the noise of a logistic: P(first) = sigmoid(gap)
            votes.append("tie" if abs(seen) < 0.4 else "first" if seen > 0 else "second")
        found.append(Labelled(Question(prompt, answers), tuple(votes)))
    return found


def judged(settings: dict[str, Any], rows: list[Labelled], samples: int = 2) -> tuple[ScriptedJudge, list[JudgedPair]]:
    judge = ScriptedJudge("fake", ScriptedConfig(**settings))
    return judge, [JudgedPair(v, x.votes) for v, x in zip(verdicts(judge, [x.question for x in rows], samples), rows, strict=True)]


def all_rates(settings: dict[str, Any], rows: list[Labelled], how: Measuring) -> dict[str, Any]:
    judge, found = judged(settings, rows)
    rates = measure(found, judge.family, how)
    _, soft = judged(SOFT, rows, samples=1)
    calibrated = calibration(soft, how)
    assert calibrated is not None
    return {**rates, "ece": calibrated["ece"], "temperature": calibrated["temperature"]}


@pytest.fixture(scope="module")
def truth() -> dict[str, float]:
    """What very many pairs give."""
    return {name: x["mean"] for name, x in all_rates(BIASED, world(4000, 0), Measuring(draws=1)).items()}


@pytest.mark.parametrize(("seeds", "least", "together"), [(8, 5, 0.90), pytest.param(60, 50, 0.92, marks=pytest.mark.slow)])
def test_every_number_comes_back_within_its_interval(truth: dict[str, float], seeds: int, least: int, together: float):
    """95% intervals of small samples: each number lies in ``least`` of them at least (a coin of 0.95 stays below 5 of 8
    once in 2,700, below 50 of 60 once in 5,000), all numbers together in the share ``together`` of them."""
    held: Counter[str] = Counter()
    for seed in range(1, seeds + 1):
        for name, x in all_rates(BIASED, world(160, seed), Measuring(draws=300, seed=seed)).items():
            assert x is not None, name
            assert x["cases"] > 0
            held[name] += x["low"] <= truth[name] <= x["high"]
    few = {name: n for name in truth if (n := held[name]) < least}
    assert not few, (few, truth)
    assert sum(held.values()) / (len(truth) * seeds) > together


def test_the_biases_are_there(truth: dict[str, float]):
    """None of these is what an honest judge has."""
    assert truth["first_shown"] > 0.6
    assert truth["order_flip"] > 0.1
    assert truth["repeat_flip"] > 0.1
    assert truth["length_slope"] > 0.06
    assert truth["own_family_excess"] > 0.05
    assert truth["failures"] == pytest.approx(0.03, abs=0.005)
    assert 1.5 < truth["temperature"] < 4.0  # three times too sure of what people see through noise


def test_an_honest_judge_has_none_of_them():
    rates = all_rates({"noise": 0.5}, world(1500, 3), Measuring(draws=50))
    assert rates["first_shown"]["mean"] == pytest.approx(0.5, abs=0.03)
    assert rates["length_slope"]["mean"] == pytest.approx(0.0, abs=0.05)
    assert rates["own_family"] is None  # a judge without a family
    assert rates["failures"]["mean"] == 0
    assert rates["failures"]["high"] > 0  # not certain for that


# ---------------------------------------------------------------------------------------------------------------- by hand


def of(calls: list[tuple[str, str]], votes: tuple[str, ...], k: int = 0, lengths: tuple[int, int] = (3, 3)) -> JudgedPair:
    """A pair with what the two orders said: a side, or "" for a failure."""
    q = Question(Prompt(f"p{k}", text="q"), (Candidate("a", "x" * lengths[0]), Candidate("b", "y" * lengths[1])))
    made = [
        (order, Said(probabilities={side: 1.0}, cost=0.5) if side else failed("reply: none", cost=0.5))
        for sides in calls
        for order, side in zip((q, q.swapped), sides, strict=True)
    ]
    return JudgedPair(Verdict(q, tuple(made), combine(made)), votes)


HAND = [
    of([("first", "first")], ("first", "first", "second"), 0),
    of([("first", "second")], ("first", "tie", "first"), 1),  # turns with the order: a tie
    of([("second", "second")], ("first", "second", "second"), 2, (15, 3)),
    of([("second", "second")], ("first", "first", "tie"), 3, (1, 7)),
    of([("tie", "tie")], ("tie", "tie", "first"), 4),
    of([("first", "")], ("first", "first", "first"), 5),  # half of it failed: no verdict
]


def test_numbers_by_hand():
    rates = measure(HAND, "", Measuring(draws=200))

    def share(name: str) -> tuple[float, int]:
        return pytest.approx(rates[name]["mean"]), rates[name]["cases"]

    # votes together: first, first, second, first, tie; the judge: first, tie, second, second, tie
    assert share("agreement") == (3 / 5, 5)
    assert share("agreement_decided") == (2 / 3, 3)
    assert share("order_flip") == (1 / 4, 4)
    # calls, by place: 0 1 | 0 0 | 1 0 | 1 0 | tie tie | 0
    assert share("first_shown") == (6 / 9, 9)
    assert share("same_place") == (6 / 11, 11)
    assert share("failures") == (1 / 12, 12)
    assert share("pairs_without_verdict") == (1 / 6, 6)
    assert rates["repeat_flip"] is None
    said, people = ["first", "tie", "second", "second", "tie"], ["first", "first", "second", "first", "tie"]
    assert rates["kappa"]["mean"] == pytest.approx(cohen_kappa(said, people))
    # length: x = log2(16/4) = 2 with lead -1 against -1/3, x = log2(2/8) = -2 with lead -1 against 2/3
    assert rates["length_slope"]["mean"] == pytest.approx((2 * (-1 + 1 / 3) + -2 * (-1 - 2 / 3)) / (4 + 4))
    assert price(HAND) == {
        "calls": 12,
        "made": 12,
        "cost": 6.0,
        "cost_a_call": 0.5,
        "cost_unknown": 0,
        "tokens_read": 0,
        "tokens_written": 0,
    }


def test_people_left_out_by_hand():
    """Each vote against the side of the others, and the judge against the same others."""
    rates = measure([HAND[0], HAND[4]], "", Measuring(draws=200))
    # first, first, second: others of the first two are (first, second) = tie, of the third first. The votes: no, no, no.
    # tie, tie, first: others (tie, first): first and tie even, neither of the two... by the rule the likeliest side; of the third tie.
    assert majority(("first", "second")) == "tie"
    assert majority(("tie", "first")) == "first"
    assert majority(("tie", "tie")) == "tie"
    assert rates["people"]["mean"] == pytest.approx(0 / 6)
    assert rates["judge_beside"]["mean"] == pytest.approx((0 + 0 + 1 + 0 + 0 + 1) / 6)
    assert rates["people_decided"]["cases"] == 1
    assert rates["judge_beside_decided"]["cases"] == 1
    assert rates["people_gap"]["mean"] == pytest.approx(1.0)


def test_kappa_of_totals():
    rng = random.Random(0)
    a, b = ([rng.choice(["first", "second", "tie"]) for _ in range(200)] for _ in range(2))
    table = np.zeros((3, 3))
    for x, y in zip(a, b, strict=True):
        table[SIDES.index(x), SIDES.index(y)] += 1
    assert kappa(table.reshape(1, 9))[0] == pytest.approx(cohen_kappa(a, b))


def test_totals_that_are_not_defined():
    assert cluster_totals([], lambda t: t[:, 0], draws=10) is None
    assert cluster_totals([(1.0, 0.0)], lambda t: t[:, 0] / t[:, 1], draws=10) is None
    found = cluster_totals([(1.0, 2.0), (0.0, 2.0)], lambda t: t[:, 0] / t[:, 1], draws=200)
    assert found is not None
    assert (found.mean, found.low, found.high, found.n) == (0.25, 0.0, 0.5, 2)


# ------------------------------------------------------------------------------------------------------- batteries, the gate

FAST = {"draws": 200, "injected_pairs": 10, "hollow_prompts": 6}


def report(settings: dict[str, Any], n: int = 120, **config: Any) -> dict[str, Any]:
    judge = ScriptedJudge("fake", ScriptedConfig(**settings))
    return judge_report(judge, world(n, 7), JudgeReportConfig(**{**FAST, **config}), "labels.jsonl")


def failing(found: dict[str, Any]) -> set[str]:
    return {c["name"] for c in found["gate"]["checks"] if not c["passed"]}


def test_a_good_judge_passes():
    found = report({"noise": 0.3, "hard": False, "quality": 2.0})
    assert failing(found) == set()
    assert found["gate"]["passed"]
    assert found["injected"]["all"]["mean"] <= found["injected"]["control"]["mean"] + 0.02
    assert found["hollow"]["all"]["mean"] == 0
    text = "\n".join(headline(found))
    assert "the judge passes the gate" in text
    assert "(n " in text
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("settings", "lost"),
    [
        ({"obeys": True}, {"injected"}),
        ({"hollow": True}, {"hollow"}),
        ({"constant": "A"}, {"constant", "least_agreement", "hollow"}),
        ({"constant": "C"}, {"constant", "order_flip", "hollow"}),
        ({"position": 3.0}, {"order_flip"}),
        ({"quality": -1.0}, {"below_people"}),
        ({"fails": 0.5}, {"failures"}),
    ],
)
def test_the_gate_refuses(settings: dict[str, Any], lost: set[str]):
    found = report({"hard": True, **settings})
    assert lost <= failing(found)
    assert not found["gate"]["passed"]
    if settings == {"obeys": True}:
        kinds = found["injected"]["kinds"]
        assert all(kinds[k]["mean"] == 1.0 for k in ("brackets", "grade", "output", "json", "chinese", "line"))
        assert kinds["plea"]["mean"] < 0.2  # which it does not know
        assert failing(found) == {"injected"}


def test_too_few_pairs_and_no_person_to_leave_out():
    assert "least_pairs" in failing(report({}, n=20))
    one = [Labelled(x.question, x.votes[:1]) for x in world(120, 7)]
    judge = ScriptedJudge("fake", ScriptedConfig())
    found = judge_report(judge, one, JudgeReportConfig(**FAST), "x")
    assert found["measures"]["people"] is None
    assert "least_agreement" in {c["name"] for c in found["gate"]["checks"]}
    bad = judge_report(ScriptedJudge("fake", ScriptedConfig(quality=-1.0)), one, JudgeReportConfig(**FAST), "x")
    assert "least_agreement" in failing(bad)


def test_too_many_failures_give_no_number():
    found = report({"fails": 0.4})
    assert found["measures"]["agreement"] is None
    assert found["measures"]["failures"]["mean"] == pytest.approx(0.4, abs=0.06)
    assert found["injected"] is None
    assert found["failures_by_kind"].keys() == {"reply"}
    assert "agreement: no case" in "\n".join(headline(found))


def test_what_was_not_measured_is_no_pass():
    found = report({"hard": False, "quality": 2.0}, injected_pairs=0, hollow_prompts=0)
    assert failing(found) == {"injected", "hollow"}
    checks = decide(found, GateConfig())
    assert {c.name for c in checks if c.value is None} == {"injected", "hollow"}


def test_who_may_and_who_may_not(tmp_path: Path):
    good, bad = ScriptedJudge("good", ScriptedConfig(hard=False, quality=2.0)), ScriptedJudge("bad", ScriptedConfig(constant="A"))
    paths = {}
    for judge in (good, bad):
        found = judge_report(judge, world(120, 7), JudgeReportConfig(**FAST), "x")
        paths[judge.name] = str(tmp_path / f"{judge.name}.json")
        Path(paths[judge.name]).write_text(json.dumps(found), encoding="utf-8")
    told = admit(good, paths["good"], "", "a reward")
    assert (told["passed"], told["override"], told["identity"]) == (True, False, good.identity)
    with pytest.raises(ConfigError, match=r"may not be a labeller: its report fails: .*constant"):
        admit(bad, paths["bad"], "", "a labeller")
    told = admit(bad, paths["bad"], "bad", "a labeller")
    assert told["override"] is True
    assert "constant" in told["refused_for"]
    with pytest.raises(ConfigError, match="not the judge's name"):
        admit(bad, paths["bad"], "yes", "a labeller")
    with pytest.raises(ConfigError, match="of another judge"):
        admit(ScriptedJudge("good", ScriptedConfig(hard=False, quality=2.5)), paths["good"], "", "a scorer")
    with pytest.raises(ConfigError, match="has no report"):
        admit(good, "", "", "a scorer")
    (tmp_path / "no.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="no report of a judge"):
        read_report(str(tmp_path / "no.json"))


def test_a_report_of_another_gate_lets_nobody_through(tmp_path: Path):
    """No check at all is no passed check, and what today's gate asks for must stand in the report, whoever wrote it."""
    judge = ScriptedJudge("good", ScriptedConfig(hard=False, quality=2.0))
    whole = judge_report(judge, world(120, 7), JudgeReportConfig(**FAST), "x")
    names = [c["name"] for c in whole["gate"]["checks"]]

    def admitted(**changed: Any) -> dict[str, Any]:
        path = tmp_path / "r.json"
        path.write_text(json.dumps(whole | changed), encoding="utf-8")
        return admit(judge, str(path), "", "a reward")

    def checks(*without: str, **more: Any) -> dict[str, Any]:
        return {"passed": True, "checks": [c | more for c in whole["gate"]["checks"] if c["name"] not in without]}

    assert admitted()["passed"]
    with pytest.raises(ConfigError, match=f"older gate, which did not check {', '.join(names)}"):
        admitted(gate=checks(*names))
    for name in names:
        with pytest.raises(ConfigError, match=f"may not be a reward: .* older gate, which did not check {name}"):
            admitted(gate=checks(name))
    for broken in ({"passed": True}, {"passed": True, "checks": "all"}, {"checks": [3]}, {"checks": [{"name": "x"}]}):
        with pytest.raises(ConfigError, match="no report of a judge"):
            admitted(gate=broken)
    for lost in ({"judge": {}}, {"measures": None}, {"settings": {"gate": {"hollow": "no"}}}, {"settings": {}}):
        with pytest.raises(ConfigError, match="no report of a judge"):
            admitted(**lost)
    # a line that says "passed" beside a value that does not
    turned = whole["measures"] | {"order_flip": whole["measures"]["order_flip"] | {"mean": 0.9}}
    with pytest.raises(ConfigError, match=r"its report fails: order_flip 0\.9 \(limit 0\.2\)"):
        admitted(measures=turned)
    with pytest.raises(ConfigError, match="its report fails"):
        admitted(gate=checks(passed=False))
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(whole | {"gate": {"passed": True, "checks": []}}), encoding="utf-8")
    told = admit(judge, str(path), "good", "a reward")  # by name all the same, and the manifest says why
    assert (told["passed"], told["override"]) == (False, True)
    assert "older gate" in told["refused_for"]


def test_the_control_is_as_long_and_calm():
    assert len(judge_batteries.calm(500)) == 500
    assert not any(word in judge_batteries.calm(2000).lower() for word in ("verdict", "label", "judge", "grade", "[["))


# ------------------------------------------------------------------------------------------------------------------- labels


def test_labels_of_people():
    prompt = Prompt("p", text="q", meta={"truth": 4})
    first, second = Candidate("a", "x"), Candidate("b", "y")

    def vote(who: str, outcome: Any, flipped: bool = False) -> Comparison:
        pair = (second, first) if flipped else (first, second)
        return Comparison(f"{who}{outcome}{flipped}", prompt, pair, outcome, 1.0, who, "v", (0, 1))

    rows = [vote("ann", "first"), vote("bob", "second", True), vote("cy", "tie"), vote("ann", "second")]  # bob means the first too
    found = labelled(rows, "f", "truth")
    assert len(found) == 1
    side = "first" if found[0].question.answers[0] == first else "second"
    assert found[0].votes == (side, side, "tie")
    assert found[0].question.reference == "4"
    with pytest.raises(DataError, match="has no 'none'"):
        labelled(rows, "f", "none")
    with pytest.raises(DataError, match="no labelled pairs"):
        labelled([prompt], "f")


def test_answers_that_differ_in_images_are_two_and_no_judge_drops_the_images():
    """Of a pair of pictures with the same words a judge of texts has nothing to say: it is told, and no tie."""

    def drawn(name: str) -> tuple[Message, ...]:
        return (Message("assistant", (TextPart("Here."), ImagePart(f"{name}.png"))),)

    asked = Prompt("p", (Message("user", "Draw it."),))
    found = labelled([Pair("1", asked, drawn("a"), drawn("b")), Pair("2", asked, drawn("b"), drawn("a"))], "f")
    assert len(found) == 1  # the same two answers
    assert len({c.candidate_id for c in found[0].question.answers}) == 2
    assert all(c.turns for c in found[0].question.answers)
    with pytest.raises(DataError, match="an answer to prompt p holds images, and this judge reads text alone"):
        write(load_template("pairwise_en"), found[0].question, "label")
    scorer = Scores()
    reward = RewardModelJudge("r", RewardModelConfig(path="x"), scorer, "w")
    (said,) = reward.ask([found[0].question])
    assert said.error.startswith("images: ")
    (plain,) = labelled([Pair("3", asked, (Message("assistant", "a"),), (Message("assistant", "b"),))], "f")
    assert not any(c.turns for c in plain.question.answers)
    lost, kept = reward.ask([found[0].question, plain.question])
    assert lost.error
    assert kept.probabilities is not None
    assert scorer.seen == [c.text for c in plain.question.answers]


class Scores:
    """A reward model that counts letters."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def judge(self, items: Any) -> list[Score]:
        self.seen += [text for _, text in items]
        return [Score(float(len(text))) for _, text in items]


def test_labels_of_pairs_do_not_put_the_better_one_first():
    pairs = [
        Pair(str(k), Prompt(str(k), text=f"q{k}"), (Message("assistant", f"good {k}"),), (Message("assistant", f"bad {k}"),))
        for k in range(200)
    ]
    found = labelled(pairs, "f")
    share = sum(x.votes == ("first",) for x in found) / len(found)
    assert 0.36 < share < 0.64
    assert all(x.question.answers[0 if x.votes == ("first",) else 1].text.startswith("good") for x in found)
    tie = labelled([Pair("t", Prompt("t", text="q"), (Message("assistant", "a"),), (Message("assistant", "b"),), label=0.5)], "f")
    assert tie[0].votes == ("tie",)


def turned(row: Labelled, votes: int) -> Labelled:
    """The pair with labels against its worth: what an honest judge disagrees with."""
    worse = "second" if row.question.answers[0].origin["quality"] > row.question.answers[1].origin["quality"] else "first"
    return Labelled(row.question, (worse,) * votes)


def agreed(row: Labelled, votes: int) -> Labelled:
    return Labelled(row.question, ("second" if turned(row, 1).votes[0] == "first" else "first",) * votes)


def checks_of(rows: list[Labelled]) -> dict[str, tuple[float | None, bool]]:
    found = judge_report(ScriptedJudge("fake", ScriptedConfig(hard=False, quality=2.0)), rows, JudgeReportConfig(**FAST), "x")
    return {c["name"]: (c["value"], c["passed"]) for c in found["gate"]["checks"]}


@pytest.mark.parametrize("several", [1, 3, 49])
def test_a_few_pairs_of_several_people_do_not_stand_for_the_others(several: int):
    """They agree with the judge; the 100 pairs with one label do not."""
    rows = world(100 + several, 7)
    found = checks_of([agreed(row, 2) for row in rows[:several]] + [turned(row, 1) for row in rows[several:]])
    assert "below_people" not in found
    assert found["least_agreement"] == (pytest.approx(several / (100 + several)), False)


def test_each_pair_is_answered_for():
    """Enough pairs of both kinds: each kind is checked by itself, so that neither hides the other."""
    rows = world(200, 7)
    found = checks_of([agreed(row, 2) for row in rows[:140]] + [turned(row, 1) for row in rows[140:]])
    assert found["below_people"][1]
    assert found["least_agreement"] == (0.0, False)
    found = checks_of([turned(row, 2) for row in rows[:60]] + [agreed(row, 1) for row in rows[60:]])
    assert found["below_people"] == (1.0, False)
    assert found["least_agreement"] == (1.0, True)
    found = checks_of([agreed(row, 2) for row in rows[:60]] + [turned(row, 1) for row in rows[60:70]])
    assert "least_agreement" not in found, "ten pairs tell nothing, and most have people"


def test_pairs_that_nobody_decides_are_no_evidence():
    rows = [Labelled(row.question, ("tie", "tie")) for row in world(100, 7)]
    assert checks_of([*rows, *(agreed(row, 2) for row in world(49, 8))])["least_pairs"] == (49.0, False)
    assert checks_of([*rows, *(agreed(row, 2) for row in world(50, 8))])["least_pairs"] == (50.0, True)


def test_a_row_that_stands_twice_is_not_two_people(caplog: pytest.LogCaptureFixture):
    """Rows without a name are one vote of somebody unknown: nobody can be left out of it."""

    def pair(good: str, bad: str) -> Pair:
        return Pair(f"{good}{bad}", Prompt("p", text="q"), (Message("assistant", good),), (Message("assistant", bad),))

    with caplog.at_level("INFO", "keel"):
        (found,) = labelled([pair("a", "b"), pair("a", "b"), pair("b", "a")], "f")
    assert found.votes == ("first" if found.question.answers[0].text == "a" else "second",), "the side of most"
    assert "2 labels are further ones" in caplog.text
    assert labelled([pair("a", "b"), pair("b", "a")], "f")[0].votes == ("tie",)
    prompt, answers = Prompt("p", text="q"), (Candidate("a", "x"), Candidate("b", "y"))

    def vote(who: str, outcome: Any) -> Comparison:
        return Comparison(f"{who}{outcome}", prompt, answers, outcome, 1.0, who, "v", (0, 1))

    (found,) = labelled([vote("", "first"), vote(" ", "first")], "f")
    assert len(found.votes) == 1
    (found,) = labelled([vote("", "first"), vote("ann", "second"), vote("bob", "tie")], "f")
    assert len(found.votes) == 2
