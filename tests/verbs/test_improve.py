"""Self-improvement by hand: which prompts, which lessons, what is replayed, which round is good, when it ends, what is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keel.cli import main
from keel.core.config import load
from keel.core.errors import ConfigError, DataError, RunError
from keel.evaluate.statistics import Interval
from keel.feedback.candidates import make_candidate
from keel.judges.ask import digest
from keel.judges.build import make_judge
from keel.judges.config import EndpointConfig, JudgesFile, ScriptedConfig, deciding_of
from keel.judges.scripted import ScriptedJudge
from keel.runs.fingerprints import file_fingerprint
from keel.types import Candidate, Prompt
from keel.verbs.improve.choose import Judged, Lesson, explored, harder_after, lessons, prompts_of_round, replayed, success
from keel.verbs.improve.decide import State, after, outcome, result
from keel.verbs.improve.held_out import Answers, change, check_independent
from keel.verbs.improve.judging import Match, ask, keep, round_robin, scored, together
from keel.verbs.improve.recipe import DifficultyConfig, HeldOutConfig, ImproveRecipe, SelectConfig
from keel.verbs.improve.run import run_improve
from keel.verbs.shared.inputs import inputs_of
from labs.study.self_improvement import table, verdict

ROOT = Path(__file__).resolve().parents[2]
GOLD = "{type: python, name: useful, function: 'recipes/tiny/useful.py:useful'}"
LEAST = [
    "model=tiny:llama",
    "data={path: recipes/tiny/letters.jsonl}",
    "judge={judges: recipes/tiny/judges.yaml, judge: honest, override: honest}",
]


def prompt(name: str) -> Prompt:
    return Prompt(name, text=f"Question {name}?")


def said(name: str, text: str, score: float | None, beats: float | None = None, finish: str = "stop") -> Judged:
    return Judged(make_candidate(name, text, {"finish_reason": finish}), score, beats)


def lesson(name: str, text: str, worth: float, number: int = 1) -> Lesson:
    return Lesson(prompt(name), make_candidate(name, text, {}), None, worth, number)


def pictured(tmp_path: Path) -> str:
    """Forty questions about a picture."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = [{"prompt": f"What is in picture {k}?", "images": ["a.png"]} for k in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    far = {"type": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m", "journal": str(tmp_path / "calls.sqlite")}
    judges = {"sees": {"type": "scripted"}, "blind": far, "both": {"type": "panel", "members": ["sees", "blind"], "quorum": 1}}
    (tmp_path / "judges.yaml").write_text(json.dumps({"judges": judges}), encoding="utf-8")
    (tmp_path / "c.yaml").write_text("principles: [{name: kind, text: It is kind.}]", encoding="utf-8")
    return str(tmp_path / "judges.yaml")


@pytest.mark.parametrize("where", ["judge", "panel", "held_out.judge", "held_out.reward", "held_out.constitution"])
def test_pictures_and_a_judge_that_does_not_see_them_fail_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """By name, before a model is loaded or anybody is asked."""
    pytest.importorskip("httpx")
    judges = pictured(tmp_path)

    def use(name: str) -> str:
        return f"judges: {judges}, judge: {name}, override: {name}"

    learnt = {"judge": "blind", "panel": "both"}.get(where, "sees")
    measured = {
        "held_out.judge": f"held_out.judge={{{use('blind')}}}",
        "held_out.reward": f"held_out.rewards=[{{type: judge, name: r, {use('blind')}}}]",
        "held_out.constitution": f"held_out.rewards=[{{type: constitution, name: r, path: {tmp_path / 'c.yaml'}, {use('blind')}}}]",
    }.get(where, f"held_out.rewards=[{GOLD}]")
    given = ["model=tiny:llama", f"data={{path: {tmp_path / 'rows.jsonl'}}}", f"judge={{{use(learnt)}}}", "held_out.prompts=0.3", measured]
    monkeypatch.setattr("keel.verbs.improve.run.load", lambda *_: pytest.fail("a model is loaded"))
    with pytest.raises(DataError, match=r"reads text alone, and \d+ rows hold images: .*rows.jsonl:\d+"):
        run_improve(load(ImproveRecipe, None, given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_of_judges_is_what_the_judges_say(tmp_path: Path) -> None:
    """More money, more patience, another journal: the same run. Another model, template or member: another one."""
    path = tmp_path / "judges.yaml"
    far = {"type": "endpoint", "url": "http://far/v1", "model": "m", "price": {"read": 1.0, "written": 1.0}}

    def read(**changed: Any) -> str:
        path.write_text(json.dumps({"judges": {"far": far | changed, "b": {"type": "scripted"}}}), encoding="utf-8")
        given = ["model=tiny:llama", "data={path: x.jsonl}", f"judge={{judges: {path}, judge: far, override: far}}", "unguarded=far"]
        (found,) = (v for k, v in inputs_of(load(ImproveRecipe, None, given)).items() if k.startswith("judge.judges"))
        return found

    means = {"budget": 5.0, "journal": "j", "concurrency": 2, "per_minute": 9.0, "attempts": 1, "timeout_s": 2.0, "longest_pause_s": 1.0}
    means |= {"key_env": "KEY", "price": {"read": 2.0, "written": 3.0}}
    assert set(means) | {"image_tokens"} == EndpointConfig.MEANS
    assert all(read() == read(**{name: value}) for name, value in means.items())
    assert read(images=True) == read(images=True, image_tokens=7)
    others = [{"model": "n"}, {"url": "http://near/v1"}, {"verdict": "json"}, {"images": True}, {"templates": {"pairwise": "pairwise_zh"}}]
    assert len({read(), *(read(**change) for change in others)}) == 1 + len(others)


def test_a_run_goes_on_with_the_fingerprint_that_an_earlier_version_took(tmp_path: Path) -> None:
    """Of the whole file, or with all defaults: both are known again as long as the file says the same, and of another one none is."""
    path = tmp_path / "judges.yaml"
    path.write_text("judges: {far: {type: endpoint, url: 'http://far/v1', model: m}}\n", encoding="utf-8")
    given = ["model=tiny:llama", "data={path: x.jsonl}", f"judge={{judges: {path}, judge: far, override: far}}", "unguarded=far"]
    recipe = load(ImproveRecipe, None, given)
    (place,) = (k for k in inputs_of(recipe) if k.startswith("judge.judges"))
    today = inputs_of(recipe)[place]
    whole = digest(deciding_of(path, whole=True))[:16]
    before = (file_fingerprint(path), whole)
    assert len({today, *before}) == 3
    assert [inputs_of(recipe, {place: x})[place] for x in (*before, today, "else")] == [*before, today, today]
    path.write_text(path.read_text().replace("model: m", "model: n"), encoding="utf-8")
    assert all(inputs_of(recipe, {place: x})[place] not in (*before, today) for x in (*before, today))
    path.write_text("# the same\njudges:\n  far: {model: m, type: endpoint, url: 'http://far/v1', verdict: logprobs}\n", encoding="utf-8")
    assert inputs_of(recipe)[place] == today, "other words for the same judges"
    assert inputs_of(recipe, {place: whole})[place] == whole


def by(mean: float, low: float, high: float) -> Interval:
    return Interval(mean, low, high, 48)


# ------------------------------------------------------------------------------------------------------------- prompts


def test_hotter_answers_are_the_share_rounded_up_and_never_all() -> None:
    assert [explored(4, s) for s in (0.0, 0.1, 0.25, 0.5, 0.9)] == [0, 1, 1, 2, 3]
    assert explored(10, 0.3) == 3  # 0.3 * 10 is a little more than 3 in floating point


def test_success_is_the_share_won_over_the_start() -> None:
    assert success([said("a", "x", 0.2, 1.0), said("a", "y", 0.9, 0.5), said("a", "z", 0.1, None)]) == pytest.approx(0.75)
    assert success([said("a", "x", 0.2, None)]) is None


def test_harder_prompts_come_from_the_half_with_less_success() -> None:
    ids = [f"p{i}" for i in range(8)]
    successes = {f"p{i}": i / 8 for i in range(8)}
    chosen, hard = prompts_of_round(ids, successes, 4, 0.75, 0, 1)
    assert hard == 3
    assert sum(i in ids[:4] for i in chosen) == 3
    assert chosen == sorted(chosen)  # in the order of the data
    assert prompts_of_round(ids, successes, 0, 1.0, 0, 1)[0] == ids  # 0 = all
    assert set(prompts_of_round(ids, successes, 6, 1.0, 0, 1)[0]) >= set(ids[:4])  # the harder half has 4: the easier one fills up
    assert prompts_of_round(ids, {}, 4, 0.5, 0, 1)[0] != prompts_of_round(ids, {}, 4, 0.5, 0, 2)[0]  # another round, others


@pytest.mark.parametrize("seed", range(40))
def test_a_round_asks_as_many_prompts_as_it_should_each_once(seed: int) -> None:
    draw = random.Random(seed)
    n, wanted, number = draw.randint(1, 12), draw.randint(0, 14), draw.randint(0, 5)
    ids = [f"p{i}" for i in range(n)]
    successes = {i: draw.random() for i in ids if draw.random() < 0.5}
    chosen, hard = prompts_of_round(ids, successes, wanted, draw.random(), 3, number)
    assert len(chosen) == len(set(chosen)) == (wanted if 0 < wanted < n else n)
    assert 0 <= hard <= len(chosen)


def test_the_share_of_harder_prompts_grows_with_success_alone() -> None:
    config = DifficultyConfig(prompts=4, harder=0.5, step=0.2, above=0.6, most=0.8)
    assert harder_after(0.5, 0.59, config) == 0.5
    assert harder_after(0.5, None, config) == 0.5
    assert harder_after(0.5, 0.6, config) == 0.7
    assert harder_after(0.7, 0.9, config) == 0.8  # the most


# ------------------------------------------------------------------------------------------------------------- lessons


def test_the_best_answer_and_the_pair_by_hand() -> None:
    judged = {
        "a": [said("a", "good", 0.9), said("a", "fair", 0.5), said("a", "poor", 0.1)],
        "b": [said("b", "one", 0.5), said("b", "two", 0.4)],
        "c": [said("c", "lost", None)],
        "d": [said("d", "bad", 0.3), said("d", "worse", 0.1)],
    }
    prompts = {i: prompt(i) for i in judged}
    best, none = lessons(prompts, judged, "sft", SelectConfig(least=0.5), 2)
    assert [(x.prompt.prompt_id, x.chosen.text, x.worth, x.round) for x in best] == [("a", "good", 0.9, 2), ("b", "one", 0.5, 2)]
    assert none == {"no answer has a score": 1, "the best answer scores below select.least": 1}
    pairs, none = lessons(prompts, judged, "prefer", SelectConfig(margin=0.2), 2)
    assert [(x.chosen.text, x.rejected.text if x.rejected else "", x.worth) for x in pairs] == [
        ("good", "poor", pytest.approx(0.8)),
        ("bad", "worse", pytest.approx(0.2)),
    ]
    assert none == {"scores differ by less than select.margin": 1, "no answer has a score": 1}


def test_an_answer_that_was_cut_off_is_the_worst_and_never_the_best() -> None:
    judged = {"a": [said("a", "long and lon", 0.9, finish="length"), said("a", "short", 0.6), said("a", "poor", 0.2, finish="length")]}
    prompts = {"a": prompt("a")}
    pair = lessons(prompts, judged, "prefer", SelectConfig(), 1)[0][0]
    assert (pair.chosen.text, pair.rejected.text if pair.rejected else "") == ("short", "poor")
    assert lessons(prompts, judged, "sft", SelectConfig(cut=True), 1)[0][0].chosen.text == "long and lon"
    cut = {"a": judged["a"][:1]}
    assert lessons(prompts, cut, "sft", SelectConfig(), 1)[1] == {"every answer was cut off at sampling.max_tokens": 1}


def test_replay_is_the_best_of_earlier_rounds_as_a_share_of_all() -> None:
    pool = [lesson("a", "old", 0.6), lesson("a", "older", 0.9), lesson("b", "two", 0.8), lesson("c", "three", 0.7), lesson("d", "new", 1.0)]
    new = [lesson("d", "new", 1.0, 2), *(lesson(f"n{i}", "x", 0.5, 2) for i in range(5))]
    taken = replayed(pool, new, 0.25, 0, 2)  # 2 of 8 are a quarter
    assert [(x.prompt.prompt_id, x.chosen.text) for x in taken] == [("a", "older"), ("b", "two")]  # what is new is not replayed
    assert replayed(pool, new, 0.0, 0, 2) == []
    assert len(replayed(pool, new, 0.9, 0, 2)) == 3  # there are no more
    assert replayed(pool, [], 0.5, 0, 2) == []


# ------------------------------------------------------------------------------------------------------------- judging


def test_scores_are_shares_of_matches_against_the_others_and_the_start() -> None:
    a, b, start = (Candidate(name, name) for name in ("a", "b", "s"))
    matches = round_robin(prompt("p"), [a, b], start)
    assert [(m.first.text, m.second.text) for m in matches] == [("a", "s"), ("b", "s"), ("a", "b")]
    found = scored(prompt("p"), [a, b], start, {("a", "s"): 1.0, ("b", "s"): 0.25, ("a", "b"): 0.75})
    assert [(j.score, j.beats) for j in found] == [(pytest.approx(0.875), 1.0), (pytest.approx(0.25), 0.25)]
    found = scored(prompt("p"), [a, b], start, {("a", "s"): 1.0, ("b", "s"): None, ("a", "b"): None})
    assert [(j.score, j.beats) for j in found] == [(1.0, 1.0), (None, None)]  # half of a's matches are known, none of b's


def test_the_same_text_is_a_tie_that_nobody_is_asked_about(tmp_path: Path) -> None:
    judge = ScriptedJudge("fake", ScriptedConfig(constant="A"))
    long, short = Candidate("l", "one two three"), Candidate("s", "one")
    asked = ask(judge, [Match(prompt("p"), long, Candidate("x", "one two three")), Match(prompt("p"), long, short)])
    assert asked.shares == [0.5, 0.5]  # the second: always the first shown, in both orders
    assert asked.counts() == {"calls": 2, "made": 2, "cost": 0.0, "without_verdict": 0, "failures": {}}
    assert keep(tmp_path / "j.jsonl", f"sqlite:///{tmp_path / 'store.db'}", "round", [asked]) == 3  # two calls and their mean
    assert keep(tmp_path / "j.jsonl", f"sqlite:///{tmp_path / 'store.db'}", "round", [asked]) == 3  # again: nothing doubled
    rows = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert [next(iter(r)) for r in rows] == ["campaign", "annotator", "task", "judgement", "judgement", "judgement"]


def test_a_failing_judge_gives_no_score(tmp_path: Path) -> None:
    asked = ask(ScriptedJudge("fake", ScriptedConfig(fails=1.0)), [Match(prompt("p"), Candidate("a", "x"), Candidate("b", "y"))])
    assert asked.shares == [None]
    assert asked.counts()["without_verdict"] == 1
    assert keep(tmp_path / "j.jsonl", "", "round", [asked]) == 0


def test_a_judge_that_is_gone_is_no_judge_without_a_preference() -> None:
    """Most comparisons without a verdict: the round is not judged, and never "converged: no lesson"."""
    gone = ScriptedJudge("gone", ScriptedConfig(fails=1.0))
    matches = [Match(prompt("a"), make_candidate("a", "x", {}), make_candidate("a", f"y {i}", {})) for i in range(4)]
    with pytest.raises(RunError, match="round 3: 4 of 4 comparisons have no verdict of judge gone \\(first: "):
        ask(gone, matches).check("round 3")
    ask(ScriptedJudge("there", ScriptedConfig(length=1.0)), matches).check("round 3")
    ask(gone, []).check("round 3")


def test_calls_of_several_judges_are_counted_together() -> None:
    matches = [Match(prompt("a"), make_candidate("a", "x", {}), make_candidate("a", f"y {i}", {})) for i in range(4)]
    one, two = (ask(ScriptedJudge("j", ScriptedConfig(length=1.0, price=p)), matches).counts() for p in (0.5, 0.25))
    found = together([one, two])
    assert (found["calls"], found["made"], found["cost"], found["without_verdict"]) == (16, 16, pytest.approx(8 * 0.75), 0)
    assert together([one, {**two, "cost": None}])["cost"] is None
    assert together([]) == {}


def test_a_scripted_judge_sees_the_worth_that_it_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    judges = load(JudgesFile, Path("recipes/tiny/judges.yaml"))
    good, long = Candidate("g", "happy help thank send"), Candidate("l", "the is it in of and you to the is it in of")
    honest, planted = (ask(make_judge(name, judges), [Match(prompt("p"), good, long)]).shares[0] for name in ("honest", "long_winded"))
    assert honest == 1.0
    assert planted == 0.0
    assert make_judge("honest", judges).identity != make_judge("long_winded", judges).identity


# ------------------------------------------------------------------------------------------------------------- the gate


def test_outcomes_need_an_interval_that_is_clear_of_zero() -> None:
    assert outcome(by(0.2, 0.01, 0.4)) == "better"
    assert outcome(by(0.2, 0.0, 0.4)) == "no worse"
    assert outcome(by(-0.2, -0.4, 0.0)) == "no worse"
    assert outcome(by(-0.2, -0.4, -0.01)) == "worse"


def test_a_run_by_hand_with_a_gate_and_without() -> None:
    how: dict[str, Any] = {"rounds": 5, "gate": True, "patience": 2}
    one = after(State(), by(0.3, 0.1, 0.5), **how)
    assert one == State(round=1, good=1, at=1, best=1)
    two = after(one, by(0.05, -0.1, 0.2), **how)
    assert two == State(round=2, good=1, at=2, best=2, lead=0.05, waited=1)  # goes on from round 2, still held against round 1
    three = after(two, by(-0.3, -0.5, -0.1), **how)
    assert (three.good, result(three, True)) == (1, 2)  # of what was not refused, round 2 measured highest
    lower = after(one, by(-0.05, -0.2, 0.1), **how)
    assert (lower.good, lower.at, result(lower, True)) == (1, 2, 1)
    assert three.stopped == "round 3 is worse than round 1 on held-out prompts (-0.3 [-0.5, -0.1], n = 48) and is refused"
    assert after(two, by(0.05, -0.1, 0.2), **how).stopped == "converged: no gain over round 1 is clear of its interval after 2 rounds"
    free = after(two, by(-0.3, -0.5, -0.1), rounds=5, gate=False, patience=0)
    assert (free.good, free.at, free.stopped, result(free, False)) == (1, 3, "", 3)
    assert after(replace(two, round=4), by(0.3, 0.1, 0.5), **how).stopped == "all 5 rounds are done"


@pytest.mark.parametrize("seed", range(40))
def test_what_is_kept_is_the_highest_since_the_last_good_round(seed: int) -> None:
    draw = random.Random(seed)
    patience, state = draw.randint(0, 3), State()
    highest = (0.0, 0)  # measure against the last good round, and whose it is
    while not state.stopped:
        mean, half = draw.uniform(-0.3, 1), draw.uniform(0.01, 0.6)
        moved = by(mean, mean - half, mean + half)
        state = after(state, moved, rounds=12, gate=True, patience=patience)
        if outcome(moved) == "better":
            highest = (0.0, state.round)
        elif outcome(moved) == "no worse":
            highest = max(highest, (mean, state.round), key=lambda x: x[0])
        else:
            assert state.stopped.endswith("is refused")
    assert result(state, True) == highest[1] >= state.good


def test_the_change_is_paired_by_prompt_and_unmeasured_answers_stop_the_run() -> None:
    def answers(*scores: list[float | None]) -> Answers:
        ids = [f"p{i}" for i in range(len(scores))]
        return Answers({i: ["x"] * 2 for i in ids}, {i: [3, 4] for i in ids}, dict(zip(ids, scores, strict=True)), {})

    config = HeldOutConfig(draws=500, max_lost=0.25)
    good, now = answers([1.0, 3.0], [5.0, 5.0]), answers([3.0, 3.0], [6.0, None])
    found = change(now, good, config)
    assert (found.mean, found.n) == (pytest.approx(1.0), 2)  # (3 - 2) and (6 - 5)
    assert now.lost() == 1
    assert now.length(config).mean == 3.5
    with pytest.raises(RunError, match="2 of 4 held-out answers have no measure"):
        change(answers([3.0, None], [6.0, None]), good, config)
    with pytest.raises(RunError, match="2 of 4 held-out answers have no measure"):  # of the one prompt left any gain would be clear
        change(good, answers([1.0, 1.0], [None, None]), config)


# ------------------------------------------------------------------------------------------------------------- what is refused


def recipe(*more: str) -> ImproveRecipe:
    return load(ImproveRecipe, None, [*LEAST, *more])


def test_without_a_measure_of_its_own_a_run_is_refused_unless_by_name() -> None:
    with pytest.raises(ConfigError, match="nothing but the judge that the model learns from \\(honest\\) would measure it"):
        recipe()
    with pytest.raises(ConfigError, match="nothing but the judge"):
        recipe("unguarded=long_winded")  # another name is no leave
    assert recipe("unguarded=honest").held_out.by == ""
    with pytest.raises(ConfigError, match="unguarded would have no effect"):
        recipe("unguarded=honest", f"held_out.rewards=[{GOLD}]")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("held_out.people={people: {count: 3}}", "one of them decides"),
        ("sampling.temperature=0", "the same answer again and again"),
        ("select.least=0.3", "select.least would have no effect"),
        ("held_out.prompts=0", "without held-out prompts nothing can be refused"),
        ("difficulty.harder=0.6", "harder would have no effect with prompts=0"),
        ("difficulty={prompts: 5, harder: 0.9, most: 0.8}", "most is 0.8, below harder"),
        ("train={by: sft, objective: {beta: 0.2}}", "objective would have no effect with by=sft"),
    ],
)
def test_settings_without_effect_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(f"held_out.rewards=[{GOLD}]", setting)


def test_the_judge_that_is_learnt_from_may_not_measure_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "judges.yaml"
    same = "{type: scripted, worth: 'recipes/tiny/useful.py:useful', quality: 2.0, noise: 0.5, position: 0.5}"
    file.write_text(f"judges:\n  twin: {same}\n  other: {{type: scripted, length: -1.0, family: f}}\n", encoding="utf-8")
    judge = make_judge("honest", load(JudgesFile, Path("recipes/tiny/judges.yaml")))
    with pytest.raises(ConfigError, match="twin is the very judge that the model learns from \\(honest\\)"):
        check_independent(recipe(f"held_out.judge={{judges: {file}, judge: twin, override: twin}}"), judge)
    reward = f"{{type: judge, name: gold, judges: {file}, judge: twin, override: twin}}"
    with pytest.raises(ConfigError, match="'gold' is the very judge"):
        check_independent(recipe(f"held_out.rewards=[{reward}]"), judge)
    with pytest.raises(ConfigError, match="may not be a scorer"):
        check_independent(recipe(f"held_out.judge={{judges: {file}, judge: other}}"), judge)  # measured judges only, unless by name
    other, told = check_independent(recipe(f"held_out.judge={{judges: {file}, judge: other, override: other}}"), judge)
    assert other is not None
    assert told[0]["override"]


def test_a_panel_or_a_constitution_with_the_judge_in_it_may_not_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One voice of two is still its voice: what it is wrong about would rise, and the measure with it."""
    monkeypatch.chdir(ROOT)
    file = tmp_path / "judges.yaml"
    others = "  other: {type: scripted, length: -1.0}\n  two: {type: panel, members: [other, honest], quorum: 1}\n"
    others += "  pair: {type: panel, members: [other, two], quorum: 1}\n"
    file.write_text(Path("recipes/tiny/judges.yaml").read_text(encoding="utf-8") + others, encoding="utf-8")
    judges = load(JudgesFile, file)
    principles = tmp_path / "principles.yaml"
    principles.write_text("principles:\n  - {name: kind, text: It is kind.}\n", encoding="utf-8")
    constitution = f"{{type: constitution, name: gold, path: {principles}, judges: {file}, judge: NAME, override: NAME}}"
    for name in ("two", "pair"):
        with pytest.raises(ConfigError, match=f"{name} shares a voice with the judge that the model learns from \\(honest\\)"):
            check_independent(recipe(f"held_out.judge={{judges: {file}, judge: {name}, override: {name}}}"), make_judge("honest", judges))
    given = [f"{key}={{judges: {file}, judge: {name}, override: {name}}}" for key, name in (("judge", "two"), ("held_out.judge", "honest"))]
    with pytest.raises(ConfigError, match="honest shares a voice"):  # the panel is learnt from, its member measures
        check_independent(recipe(*given), make_judge("two", judges))
    with pytest.raises(ConfigError, match="'gold' is the very judge"):
        check_independent(recipe(f"held_out.rewards=[{constitution.replace('NAME', 'honest')}]"), make_judge("honest", judges))
    check_independent(recipe(f"held_out.rewards=[{constitution.replace('NAME', 'other')}]"), make_judge("honest", judges))


def test_a_reward_model_may_not_measure_what_it_judges(tmp_path: Path) -> None:
    file = tmp_path / "judges.yaml"
    file.write_text("judges:\n  model: {type: reward_model, path: some/folder}\n", encoding="utf-8")
    given = recipe(
        f"judge={{judges: {file}, judge: model, override: model}}",
        "held_out.rewards=[{type: model, name: gold, path: some/../some/folder}]",
    )
    with pytest.raises(ConfigError, match="'gold' is the reward model that the model learns from as a judge"):
        check_independent(given, ScriptedJudge("model", ScriptedConfig()))


# ------------------------------------------------------------------------------------------------------------- the price


def test_calls_and_price_are_told_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 + 10 prompts. A round: 4 prompts, 3 answers each: 3 pairs and 3 against the start, both orders: 12 calls a prompt. Held out: 2
    answers a prompt against the start's, both orders, by the judge and by the measure."""
    monkeypatch.chdir(ROOT)
    for name, n in (("train", 12), ("out", 10)):
        rows = [json.dumps({"prompt": f"{name} {i}?"}) for i in range(n)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    judges = "judges:\n  a: {type: scripted, length: 1.0, price: 0.5}\n  b: {type: scripted, length: -1.0, price: 0.25}\n"
    judges += "  some: {type: local, model: nowhere}\n  panel: {type: panel, members: [a, some], quorum: 1}\n"
    (tmp_path / "judges.yaml").write_text(judges, encoding="utf-8")

    def plan(judge: str, *more: str) -> dict[str, Any]:
        given = [f"data={{path: {tmp_path}/train.jsonl}}", f"judge={{judges: {tmp_path}/judges.yaml, judge: {judge}, override: {judge}}}"]
        given += [
            "model=tiny:llama",
            "samples=3",
            "rounds=2",
            "difficulty.prompts=4",
            f"held_out.prompts={{path: {tmp_path}/out.jsonl}}",
            *more,
        ]
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text("{}", encoding="utf-8")
        assert main(["improve", str(recipe), *given, "--dry-run", "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])["plan"]

    found = plan("a", f"held_out.judge={{judges: {tmp_path}/judges.yaml, judge: b, override: b}}")
    assert (found["rounds"], found["prompts"], found["prompts_a_round"], found["held_out"]) == (2, 12, 4, 10)
    assert found["calls"] == {
        "judge a": {"calls": 2 * 4 * 12, "price": 2 * 4 * 12 * 0.5},
        "judge a, held-out answers": {"calls": 2 * 10 * 4, "price": 2 * 10 * 4 * 0.5},
        "judge b, held-out answers": {"calls": 2 * 10 * 4, "price": 2 * 10 * 4 * 0.25},
    }
    assert found["price"] == 48 + 40 + 20
    reward = f"{{type: judge, name: gold, judges: {tmp_path}/judges.yaml, judge: b, override: b}}"
    found = plan("panel", f"held_out.rewards=[{reward}]")  # of a panel whoever loads a model costs nothing, and no model is loaded
    assert found["calls"]["judge panel"] == {"calls": 96, "price": 48.0}
    assert found["calls"]["reward gold by judge b"] == {"calls": 3 * 10 * 2, "price": 15.0}  # the start is measured too


# ------------------------------------------------------------------------------------------------------------- the drill's verdict


def test_the_drill_counts_stops_and_falls_by_hand() -> None:
    def run(golds: list[float], kept: int, refused: list[int], last: float) -> dict[str, Any]:
        rows = [
            {
                "score": by(g, g, g).to_json(),
                "tokens": by(5, 5, 5).to_json(),
                "change": by(last, last - 0.1, last + 0.1).to_json(),
                "verdict": "start",
            }
            for g in golds
        ]
        return {"improvement": rows, "kept": kept, "kept_name": f"round {kept}", "refused": refused}

    good = {
        "honest": run([0, 1], 1, [], 1.0),
        "planted, gate": run([0, 1, -1], 1, [2], -1),
        "planted, no gate": run([0, 1, -1, -2], 3, [], -2),
    }
    bad = {"honest": run([0, 0], 0, [], 0.0), "planted, gate": run([0, 1, 2], 1, [], 1), "planted, no gate": run([0, 1, 0], 2, [], 0.05)}
    assert verdict({"0": good, "1": bad}) == {
        "seeds": 2,
        "stopped_at_the_last_good_round": 1,
        "fell_without_the_gate": 1,
        "honest_rose": 1,
    }
    assert len(table({"0": good})) == 5
