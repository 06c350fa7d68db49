"""The stage `mine`: reasons by hand, one prompt cannot fill the plan, the random arm stays, hacks become rejected answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from keel.core.config import load
from keel.core.errors import ConfigError
from keel.data.config import DataConfig
from keel.data.dataset import load as load_data
from keel.feedback.candidates import make_candidate
from keel.types import Candidate, Encoded, Group, Pair, Prompt, Rollout
from keel.verbs.mine.reasons import PRIORITY, Judged, capped, features, length_residuals, pairs_of, turned, unsure_above, with_reasons
from keel.verbs.mine.recipe import MineConfig, MineRecipe
from keel.verbs.mine.run import _judged, run_mine
from keel.verbs.run import run_verb
from keel.verbs.shared.tasks import read_tasks

ROOT = Path(__file__).resolve().parents[2]

TEXTS = (
    "You can have your money back within three days.",
    "Please bring the tent to one of our shops.",
    "Resoling takes two weeks with us.",
)


def judged(prompt: str, text: str, score: float = 0.0, spread: float = 0.0, length: int = 10, **parts: float) -> Judged:
    found = Prompt(prompt, text=f"Question {prompt}?")
    return Judged(found, make_candidate(prompt, text, {"source": "policy"}), score, spread, parts, length, True, {})


def test_each_reason_by_hand() -> None:
    config = load(MineConfig, None, ["unsure=0.25", "rules={rules: 0.4}", "hacks.refrain=0"])
    answers = [
        judged("a", TEXTS[0], spread=0.6, rules=0.5),
        judged("b", TEXTS[1], spread=0.5, rules=0.3),
        judged("c", "so so so so so so so so so so", rules=0.4),
        judged("d", TEXTS[2], rules=0.9),
    ]
    found = [a.reasons for a in with_reasons(answers, config)]
    assert found == [{"unsure": 0.6}, {"rule:rules": 0.3}, {"hack:repetition": pytest.approx(6 / 7)}, {}]
    own = with_reasons(answers, config, lambda prompt, text: {"mine": 2.0} if "Resoling" in text else {})
    assert own[3].reasons == {"hack:mine": 2.0}


def _group(scores: tuple[float, ...], **parts: tuple[float, ...]) -> Group:
    """Answers to one prompt with the reward model's scores and other parts."""
    none = torch.zeros(3)
    rollouts = tuple(Rollout("a", 0, i, none.long(), none.bool(), none, none.long(), "stop", TEXTS[i]) for i in range(len(scores)))
    all_parts = {name: torch.tensor(values) for name, values in {"rm": scores, **parts}.items()}
    asked = Prompt("a", text="Question a?")
    return Group(asked, Encoded(none.long()), rollouts, torch.tensor(scores), all_parts, torch.ones(len(scores), dtype=torch.bool))


def test_a_rule_may_limit_the_reward_model_itself() -> None:
    group = _group((0.5, -1.5), finished=(1.0, 0.0), **{"rm/epistemic": (0.1, 0.2)})
    for rules, found in (
        ("rules={rm: -1, finished: 0.5}", {"rule:rm": -1.5, "rule:finished": 0.0}),
        ("rules={finished: 0.5}", {"rule:finished": 0.0}),
    ):
        config = load(MineConfig, None, [rules, "unsure=0"])
        answers, lost = _judged(group, "rm", "policy", "rm" in config.rules)
        assert ([a.reasons for a in with_reasons(answers, config)], lost) == ([{}, found], [])
        assert [(a.score, a.spread) for a in answers] == [(0.5, pytest.approx(0.1)), (-1.5, pytest.approx(0.2))]
        assert all(set(a.parts) == set(config.rules) for a in answers)


def test_the_share_that_is_unsure() -> None:
    assert unsure_above([0.1, 0.2, 0.3, 0.4, 0.5], 0.25) == pytest.approx(0.4)
    assert unsure_above([0.7] * 9, 0.5) == pytest.approx(0.7)  # all alike: none is above
    assert unsure_above([0.1, 0.2], 0.0) == float("inf")
    rng = np.random.default_rng(0)
    for share in (0.1, 0.3, 0.9):
        spreads = rng.random(200)
        assert abs(float((spreads > unsure_above(spreads.tolist(), share)).mean()) - share) < 0.01


def test_reward_and_length_part_ways() -> None:
    lengths = list(range(10, 30))
    scores = [0.1 * n for n in lengths]
    assert length_residuals(scores, lengths) == [0.0] * 20  # all on the line
    scores[7] += 3.0
    z = length_residuals(scores, lengths)
    assert int(np.argmax(np.abs(z))) == 7
    assert z[7] > 3
    assert np.mean(z) == pytest.approx(0.0)
    assert np.std(z) == pytest.approx(1.0)
    assert length_residuals([1.0, 2.0], [1, 5]) == [0.0, 0.0]
    answers = [judged(str(i), f"{TEXTS[0]} {i} {i * 7}", score=s, length=n) for i, (s, n) in enumerate(zip(scores, lengths, strict=True))]
    found = with_reasons(answers, load(MineConfig, None, ["hacks={repetition: 0, refrain: 0}"]))
    assert [i for i, a in enumerate(found) if "length" in a.reasons] == [7]


def test_pairs_have_the_reasons_of_both_and_their_own() -> None:
    config = MineConfig()
    one = replace(judged("a", TEXTS[0], score=1.0), reasons={"length": -3.0})
    two = replace(judged("a", TEXTS[1], score=1.1), reasons={"length": 2.5, "unsure": 0.7})
    three = judged("a", TEXTS[2], score=5.0)
    pairs = pairs_of([one, two, three, judged("a", TEXTS[0]), judged("b", TEXTS[0])], config)
    assert [set(p.reasons) for p in pairs] == [{"length", "unsure", "close"}, {"length"}, {"length", "unsure"}]
    assert pairs[0].reasons["length"] == -3.0  # the larger one, whatever its sign
    assert pairs[0].reasons["close"] == pytest.approx(0.1)
    assert all(p.priority >= PRIORITY["length"] for p in pairs)
    far = pairs_of([judged("a", TEXTS[0], 0.0), judged("a", TEXTS[1], 9.0)], config)
    assert [(p.reasons, p.priority) for p in far] == [({}, 0.0)]
    known = frozenset({frozenset((one.candidate.candidate_id, two.candidate.candidate_id))})
    assert len(pairs_of([one, two, three], config, known)) == 2


def test_one_prompt_cannot_fill_the_plan() -> None:
    answers = [replace(judged("a", f"{t} {t[::-1]}"), reasons={"unsure": 0.6}) for t in (*TEXTS, "Something else entirely here.")]
    pairs = pairs_of([*answers, *(replace(judged("b", t), reasons={"unsure": 0.6}) for t in TEXTS[:2])], MineConfig())
    kept = capped(pairs, 2)
    assert sum(k > 0 for p, k in zip(pairs, kept, strict=True) if p.first.prompt.prompt_id == "a") == 2
    assert sum(k > 0 for p, k in zip(pairs, kept, strict=True) if p.first.prompt.prompt_id == "b") == 1
    assert features(pairs).shape == (7, 10)
    assert features([]).shape == (0, 10)


def test_the_order_of_the_two_tells_nothing() -> None:
    pairs = pairs_of([judged(str(i), t, float(k)) for i in range(200) for k, t in enumerate(TEXTS[:2])], MineConfig())
    first = [turned(p, 0)[0] is p.first for p in pairs]
    assert 70 < sum(first) < 130
    assert [turned(p, 0)[0] is p.first for p in pairs] == first


RECIPE = (
    "model=tiny:llama?seed=1",
    "model_options.precision=fp32",
    "settings.threads=1",
    "samples=3",
    "sampling.max_tokens=8",
    "mine={tasks: 12, control: 0.25, rules: {finished: 0.5}}",
)


def rewards(folder: str) -> str:
    return f"rewards=[{{type: model, name: judge, path: '{folder}'}}, {{type: finished, name: finished}}]"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, proofs: None) -> str:
    """A reward model with one head."""
    out = tmp_path_factory.mktemp("reward") / "run"
    short = ["loop={steps: 1, batch_size: 2, eval_at_start: false}", "settings={threads: 1}", "model_options.precision=fp32"]
    run_verb(
        "reward",
        ROOT / "recipes" / "tiny_reward.yaml",
        [*short, f"data.path={ROOT / 'recipes' / 'tiny' / 'pairs.jsonl'}", f"run_dir={out}"],
    )
    return rewards(str(out / "final"))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"Say {w}.", "prompt_id": w}) + "\n" for w in ("tea", "rain", "maps", "cats", "oak")), "utf-8"
    )
    return f"data.path={path}"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_from_a_policy_to_tasks(prompts: str, judge: str, proofs: None, tmp_path: Path) -> None:
    detector = tmp_path / "own.py"
    detector.write_text(
        "def vowels(prompt, text):\n    return {'vowels': 1.0} if text[:1].lower() in 'aeiou' or len(text) % 3 == 0 else {}\n"
    )
    own = f"mine.hacks.detector={detector}:vowels"
    out = tmp_path / "mine"
    summary = run_mine(load(MineRecipe, None, [*RECIPE, judge, prompts, own]), out)
    tasks = read_tasks(out / "tasks.jsonl")
    assert len(tasks) == summary["tasks"] <= 12
    told = [t.meta["mined"] for t in tasks]
    assert summary["arms"]["random"] == 3 == sum(m["arm"] == "random" for m in told)
    assert all(m["reasons"] and m["priority"] > 0 for m in told if m["arm"] == "chosen")
    assert all(len({c.candidate_id for c in t.candidates}) == 2 for t in tasks)
    failures = lines(out / "failures.jsonl")
    assert len(failures) == summary["failures"]
    by_reason = summary["mined"]
    for name in ("rule", "hack"):
        assert by_reason[name]["found"] == sum(any(r.startswith(f"{name}:") for r in f["reasons"]) for f in failures)
        assert by_reason[name]["tasks"] == sum(any(r.startswith(f"{name}:") for r in m["reasons"]) for m in told)
    assert by_reason["hack"]["kinds"].get("vowels", 0) > 0
    rejected = lines(out / "hack_pairs.jsonl")
    assert len(rejected) == summary["hack_pairs"]
    hacked = {f["candidate_id"] for f in failures if any(r.startswith("hack") for r in f["reasons"])}
    for row in rejected:
        assert row["origin"]["mined"] == "hack"
        assert row["origin"]["found"]
        assert row["record_id"].rpartition(">")[2] in hacked
    if rejected:
        assert len(load_data(DataConfig(path=str(out / "hack_pairs.jsonl"))).of(Pair)) == len(rejected)
    assert run_mine(load(MineRecipe, None, [*RECIPE, judge, prompts, own]), out)["tasks"] == len(tasks)
    again = run_mine(load(MineRecipe, None, [*RECIPE, judge, prompts, own, f"mine.known=[{out / 'tasks.jsonl'}]"]), tmp_path / "again")
    asked = {frozenset(c.candidate_id for c in t.candidates) for t in tasks}
    assert not asked & {frozenset(c.candidate_id for c in t.candidates) for t in read_tasks(tmp_path / "again" / "tasks.jsonl")}
    assert again["pairs"] == summary["pairs"] - len(asked)


def test_hacks_without_a_clean_answer_beside_them_are_left_out_by_name(prompts: str, judge: str, proofs: None, tmp_path: Path) -> None:
    detector = tmp_path / "own.py"
    detector.write_text("def all_of_them(prompt, text):\n    return {'all': 1.0}\n")
    own = (f"mine.hacks.detector={detector}:all_of_them", "mine.rules={finished: -1}")
    summary = run_mine(load(MineRecipe, None, [*RECIPE, judge, prompts, *own]), tmp_path / "mine")
    assert summary["hack_pairs"] == 0
    left = [r for r in lines(tmp_path / "mine" / "left_out.jsonl") if r["side"] == "hacks"]
    assert len(left) == summary["answers"]
    assert (tmp_path / "mine" / "hack_pairs.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("mine.control=0", "control"),
        ("mine.control=1", "control"),
        ("mine.rules={}", "would have no effect"),
        ("mine.rules={other: 1}", "names 'other'"),
        ("rewards=[{type: finished, name: finished}]", "one reward model"),
        ("sampling.temperature=0", "same answer"),
    ],
)
def test_what_cannot_work_is_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(MineRecipe, None, [*RECIPE, rewards("x"), "data.path=x", override])


def test_a_spread_needs_several_members(prompts: str, judge: str, proofs: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one member"):
        run_mine(load(MineRecipe, None, [*RECIPE, judge, prompts, "mine.unsure=0.4"]), tmp_path / "mine")


def test_candidates_of_one_text_have_one_id() -> None:
    assert isinstance(judged("a", " x ").candidate, Candidate)
    assert judged("a", " x ").candidate.candidate_id == judged("a", "x").candidate.candidate_id
