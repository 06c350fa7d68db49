"""What a self-improvement asks and will cost at most, before the first call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from keel.data.dataset import Dataset
from keel.judges.ask import Judge, Question
from keel.judges.orders import calls_of
from keel.rewards.constitution.config import JudgeScorer
from keel.rewards.sources.constitution import ConstitutionReward
from keel.rewards.sources.judge import JudgeReward
from keel.types import Candidate, Prompt
from keel.verbs.improve.judging import questions, round_robin
from keel.verbs.improve.recipe import ImproveRecipe
from keel.verbs.improve.sides import sides_of
from keel.verbs.shared.pricing import CHARACTERS_A_TOKEN, paid_judges, price_of, total
from keel.verbs.shared.progress import money

Cost = tuple[int, float | None]  # calls and their price


def plan_improve(recipe: ImproveRecipe, sides: tuple[Dataset, Dataset] | None = None) -> dict[str, Any]:
    """Prompts, calls and prices at most, by who is called: all rounds, every answer at its longest and unlike the others. Loads no model.
    Raises UserError."""
    train, held_out = (side.prompts() for side in sides or sides_of(recipe))
    answers = [
        Candidate(str(i), f"{i}{'x' * recipe.sampling.max_tokens * CHARACTERS_A_TOKEN}") for i in range(max(_samples(recipe) + 1, 2))
    ]
    asked = min(recipe.difficulty.prompts or len(train), len(train))
    calls: defaultdict[str, list[Cost]] = defaultdict(list)

    learnt = paid_judges(recipe.judge.judges, recipe.judge.judge)
    rounds = [_cost(learnt, _both_orders(questions(round_robin(p, answers[1 : recipe.samples + 1], answers[0])))) for p in train]
    calls[f"judge {recipe.judge.judge}"].append(_times(_most(rounds, asked), recipe.rounds))

    k = recipe.held_out.sampling.samples
    against_start = [Question(p, (a, answers[0])) for p in held_out for a in answers[1 : k + 1]]
    for use in (recipe.judge, recipe.held_out.judge):
        if use is not None:
            judges = learnt if use is recipe.judge else paid_judges(use.judges, use.judge)
            each = [_cost(judges, _both_orders([q])) for q in against_start]
            calls[f"judge {use.judge}, held-out answers"].append(_times(_sum(each), recipe.rounds))
    for reward in recipe.held_out.rewards:
        if isinstance(reward, JudgeReward | ConstitutionReward) and reward.judge:
            judges = paid_judges(reward.judges, reward.judge)
            sees = all(judge.sees_images for judge in judges)
            each = [_cost(judges, of_prompt) for of_prompt in (_rewarded(reward, p, answers[:k], sees) for p in held_out)]
            calls[f"reward {reward.name} by judge {reward.judge}"].append(_times(_sum(each), recipe.rounds + 1))  # the start too
    found = {name: _sum(costs) for name, costs in calls.items()}
    return {
        "rounds": recipe.rounds,
        "prompts": len(train),
        "prompts_a_round": asked,
        "held_out": len(held_out),
        "calls": {name: {"calls": n, "price": price} for name, (n, price) in found.items()},
        "price": total([price for _, price in found.values()]),
    }


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [
        f"{plan['rounds']} rounds at most, {plan['prompts_a_round']} of {plan['prompts']} prompts in each, {plan['held_out']} held out"
    ]
    lines += [f"{name}: at most {c['calls']} calls, price at most {money(c['price'])}" for name, c in plan["calls"].items()]
    return [*lines, f"price at most {money(plan['price'])} in all; rules, verifiers and models of this machine cost nothing"]


def _samples(recipe: ImproveRecipe) -> int:
    return max(recipe.samples, recipe.held_out.sampling.samples)


def _both_orders(asked: Sequence[Question], samples: int = 1) -> list[Question]:
    return [call for q in asked for call in calls_of(q, samples)]


def _rewarded(reward: JudgeReward | ConstitutionReward, prompt: Prompt, answers: Sequence[Candidate], sees: bool) -> list[Question]:
    """What a reward asks its judge, which may see images, about the answers to one prompt."""
    if isinstance(reward, ConstitutionReward):
        found = reward.read()
        shown, asked = found.shown(prompt, sees), [p for p in found.of(prompt) if isinstance(p.scorer, JudgeScorer)]
        return (
            [] if shown is None else _both_orders([Question(shown, (a,), "rubric", p.text) for a in answers for p in asked], reward.samples)
        )
    if reward.how == "pointwise":
        return _both_orders([Question(prompt, (a,), "pointwise") for a in answers], reward.samples)
    return _both_orders(questions(round_robin(prompt, answers, None)), reward.samples)


def _cost(judges: Sequence[Judge], calls: Sequence[Question]) -> Cost:
    return len(calls), price_of(judges, calls)


def _sum(costs: Sequence[Cost]) -> Cost:
    return sum(n for n, _ in costs), total([p for _, p in costs])


def _times(cost: Cost, n: int) -> Cost:
    return cost[0] * n, None if cost[1] is None else cost[1] * n


def _most(costs: Sequence[Cost], n: int) -> Cost:
    """The ``n`` dearest."""
    return _sum(sorted(costs, key=lambda c: (c[1] is None, c[1] or 0.0, c[0]), reverse=True)[:n])
