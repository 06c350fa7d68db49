"""Rounds of critique and revision with scripted writers: every end that an answer can come to."""

from __future__ import annotations

import pytest
from writers import Scripted, asked, banned, constitution, says, without

from keel.critique.ask import Ask
from keel.critique.config import ReviseConfig
from keel.critique.revise import Draft, revise
from keel.critique.rules import RuleCritic
from keel.rewards.constitution.scoring import Scorer

RED, BLUE = banned("no_red", "red", "high"), banned("no_blue", "blue", "low")
SCORER = Scorer(constitution(RED, BLUE, bands=["high", "low"]))


def run(text: str, critic: Scripted, reviser: Scripted, scorer: Scorer = SCORER, **more: object) -> Draft:
    config = ReviseConfig.model_validate({"revisions": 1, **more})
    (scored,) = scorer.score([(asked(), text)])
    (draft,) = revise([(asked(), text, scored)], scorer, critic, reviser, config)
    return draft


def test_one_principle_a_round_the_highest_band_first() -> None:
    critic, reviser = Scripted(lambda a: says()), Scripted(without)
    draft = run("a red and blue tent", critic, reviser)
    assert (draft.text, draft.done) == ("a and tent", "satisfied")
    assert [(s.round, s.principle, s.outcome, s.severity) for s in draft.steps] == [
        (1, "no_red", "revised", 3),
        (2, "no_blue", "revised", 3),
    ]
    assert [s.edit for s in draft.steps] == pytest.approx([1 / 5, 1 / 4])
    assert [a.principle.name for a in critic.heard] == ["no_red", "no_blue"]
    assert reviser.heard[0].critique == "It is wrong."
    assert draft.steps[0].after > draft.steps[0].before  # type: ignore[operator]


def test_what_is_good_is_not_touched() -> None:
    critic = Scripted(lambda a: says())
    draft = run("a tent", critic, Scripted(without))
    assert (draft.done, draft.steps, critic.heard, draft.improved) == ("satisfied", [], [], False)


def test_a_revision_that_is_no_better_is_dropped_and_the_next_principle_tried() -> None:
    draft = run(
        "a red and blue tent",
        Scripted(lambda a: says()),
        Scripted(lambda a: without(a) if "blue" in a.principle.text else a.answer + " red"),
    )
    assert [(s.principle, s.outcome) for s in draft.steps] == [("no_red", "no better"), ("no_blue", "no better")]  # red still stands
    assert (draft.text, draft.done) == ("a red and blue tent", "no better")


def test_rounds_are_used_up() -> None:
    draft = run("a red and blue tent", Scripted(lambda a: says()), Scripted(without), rounds=1)
    assert (draft.text, draft.done) == ("a and blue tent", "rounds used up")


def test_what_a_critic_may_say() -> None:
    for reply, outcome in (
        (says(False, 0, "It does not violate it: 'violates' is a word."), "the critic sees no fault"),
        (says(True, 1), "too slight"),
        ("!reply: no JSON object", "the critic failed"),
    ):
        reviser = Scripted(without)
        draft = run("a red tent", Scripted(lambda a, reply=reply: reply), reviser)
        assert [s.outcome for s in draft.steps] == [outcome]
        assert (draft.done, draft.improved, reviser.heard) == ("no better", False, [])


def test_what_a_reviser_may_do() -> None:
    for reply, outcome in (("!call: gone", "the reviser failed"), ("a red tent ", "the reviser changed nothing")):
        draft = run("a red tent", Scripted(lambda a: says()), Scripted(lambda a, reply=reply: reply))
        assert [s.outcome for s in draft.steps] == [outcome]
        assert draft.text == "a red tent"


def test_use_does_not_buy_off_a_breach_above() -> None:
    """The reviser mends the lower band and breaks the higher one."""
    draft = run("a blue tent", Scripted(lambda a: says()), Scripted(lambda a: "a red tent"))
    assert [s.outcome for s in draft.steps] == ["it breaks a higher one"]
    (torn,) = draft.steps[0].conflicts
    assert (torn.won, torn.lost, torn.by) == ("no_red", "no_blue", "band")
    assert draft.text == "a blue tent"


def test_the_least_edit_among_the_best_is_taken() -> None:
    texts = ["something else altogether here", "a tent", "a red blue tent", "!call: late"]
    draft = run("a red tent", Scripted(lambda a: says()), Scripted(lambda a: texts[a.sample]), revisions=4)
    (step,) = draft.steps
    assert (draft.text, step.outcome, step.failed) == ("a tent", "revised", ("call: late",))
    assert step.edit == pytest.approx(1 / 3)


def test_rules_as_critic_are_always_right_and_ask_no_judge() -> None:
    critic = RuleCritic(SCORER)
    red, blue = SCORER.constitution.principles
    one, two = critic.write([Ask("critique", asked(), "a red tent", red), Ask("critique", asked(), "a red tent", blue)])
    assert one.text == '{"violates": true, "severity": 5, "critique": "forbidden: red"}'
    assert '"violates": false' in two.text
    assert not one.made
    (other,) = critic.write([Ask("revision", asked(), "a red tent", red)])
    assert other.error.startswith("rules: ")


def test_answers_without_a_score_are_left_alone() -> None:
    only = Scorer(constitution({**banned("a", "red"), "domains": ["law"]}))
    draft = run("a red tent", Scripted(lambda a: says()), Scripted(without), only)
    assert (draft.done, draft.steps) == ("not scored", [])


def test_all_answers_go_through_a_round_together() -> None:
    batches: list[int] = []

    class Counting(Scripted):
        def write(self, asks):  # type: ignore[no-untyped-def]
            batches.append(len(asks))
            return super().write(asks)

    texts = ["a red tent", "a blue tent", "a red and blue tent", "a tent"]
    items = [(asked(str(i)), t, SCORER.score([(asked(str(i)), t)])[0]) for i, t in enumerate(texts)]
    told: list[tuple[str, int, int]] = []

    def begin(what: str, calls: int):  # type: ignore[no-untyped-def]
        return lambda ended: told.append((what, calls, len(ended)))

    drafts = revise(items, SCORER, Counting(lambda a: says()), Scripted(without), ReviseConfig(revisions=1), begin)
    assert [d.text for d in drafts] == ["a tent", "a tent", "a and tent", "a tent"]
    assert batches == [3, 1]
    assert told == [("round 1: critiques", 3, 3), ("round 1: revisions", 3, 3), ("round 2: critiques", 1, 1), ("round 2: revisions", 1, 1)]


def test_a_revision_that_changes_too_much_is_a_new_answer() -> None:
    critic = Scripted(lambda a: says())
    whole = run("a red tent", critic, Scripted(lambda a: "we do sell boats"), most_edit=0.9)
    assert ([s.outcome for s in whole.steps], whole.text) == (["it is a new answer"], "a red tent")
    assert run("a red tent", critic, Scripted(lambda a: "we do sell boats")).text == "we do sell boats"
    assert run("a red tent", critic, Scripted(without), most_edit=0.9).text == "a tent"
