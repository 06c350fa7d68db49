"""What a job will cost at most, before the first call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keel.critique.ask import Ask, Writing
from keel.critique.config import RULES
from keel.data.dataset import Dataset
from keel.data.dataset import load as load_data
from keel.judges.ask import Question
from keel.judges.budget import most_tokens
from keel.judges.build import read_judges
from keel.judges.config import AskedConfig, EndpointConfig
from keel.rewards.constitution.config import Constitution, JudgeScorer
from keel.types import Candidate, Prompt
from keel.verbs.constitution.answers import Answered, from_data
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.constitution.writers import writer_of
from keel.verbs.shared.pricing import CHARACTERS_A_TOKEN, paid_judges, price_of, total
from keel.verbs.shared.progress import money


def plan_constitution(recipe: ConstitutionRecipe, data: Dataset | None = None) -> dict[str, Any]:
    """Prompts, answers, calls and prices at most, by who is called. Loads no model. Raises UserError."""
    data = data or load_data(recipe.data, recipe.seed)
    found = recipe.constitution.read(recipe.writes)
    prompts = data.prompts()
    blank = "x" * (recipe.sampling.max_tokens * CHARACTERS_A_TOKEN)
    if recipe.source == "data":
        answers, _ = from_data(data, found)
    else:
        answers: Answered = [(p, Candidate(f"{i}", blank)) for p in prompts for i in range(recipe.samples)]
    judges = paid_judges(recipe.constitution.judges, recipe.constitution.judge) if found.judged else []
    revised = first_answers(answers, recipe.revise.answers)
    rounds = recipe.revise.rounds
    critique, revision = ("x" * (_longest(recipe, name) * CHARACTERS_A_TOKEN) for name in (recipe.revise.critic, recipe.revise.reviser))
    drafts = [
        (p, max(c.text, revision, key=lambda t: most_tokens([t], 0))) for p, c in revised
    ]  # an answer on its way is the first one or a revision
    calls: dict[str, tuple[int, float | None]] = {}
    times = rounds * recipe.revise.revisions
    sees = all(judge.sees_images for judge in judges)
    asked = [(q, 1) for p, c in answers for q in _questions(found, p, c.text, sees)]
    asked += [(q, times) for p, _ in revised for q in _questions(found, p, revision, sees)]
    samples = recipe.constitution.samples
    if asked:
        each = [price_of(judges, [q]) for q, _ in asked]  # one by one: calls that look alike now will not be alike
        price = total([None if x is None else x * n * samples for x, (_, n) in zip(each, asked, strict=True)])
        calls[f"judge {recipe.constitution.judge}"] = (sum(n for _, n in asked) * samples, price)
    writing: tuple[tuple[Writing, str, int], ...] = (
        ("critique", recipe.revise.critic, 1),
        ("revision", recipe.revise.reviser, recipe.revise.revisions),
    )
    for kind, name, n in writing:
        one = [_ask(recipe, kind, found, p, text, critique) for p, text in drafts]
        if one:
            price = _price(recipe, found, kind, name, one)
            calls[f"{kind}s by {name or 'model'}"] = (len(one) * rounds * n, None if price is None else price * rounds * n)
    if recipe.measure.answers:
        calls[f"critiques by {recipe.measure.critic or 'model'}, measured"] = _measured(recipe, found, answers)
    return {
        "prompts": len(prompts),
        "answers": len(answers),
        "revised": len(revised),
        "calls": {name: {"calls": n, "price": price} for name, (n, price) in calls.items()},
        "price": total([price for _, price in calls.values()]),
        "idle": found.idle(prompts),
    }


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [f"{plan['prompts']} prompts, {plan['answers']} answers, {plan['revised']} of them revised"]
    lines += [f"{name}: at most {c['calls']} calls, price at most {money(c['price'])}" for name, c in plan["calls"].items()]
    if plan["idle"]:
        lines.append(f"principles that apply to no prompt, by its domain or language: {', '.join(plan['idle'])}")
    return [*lines, f"price at most {money(plan['price'])} in all; rules, verifiers and models of this machine cost nothing"]


def first_answers(answers: Answered, n: int) -> Answered:
    """The first ``n`` different answers to each prompt."""
    by_prompt: dict[str, dict[str, Any]] = {}
    for prompt, candidate in answers:
        own = by_prompt.setdefault(prompt.prompt_id, {})
        if len(own) < n:
            own.setdefault(candidate.candidate_id, (prompt, candidate))
    return [pair for own in by_prompt.values() for pair in own.values()]


def _questions(found: Constitution, prompt: Prompt, text: str, sees: bool) -> list[Question]:
    shown = found.shown(prompt, sees)
    asked = [p for p in found.of(prompt) if isinstance(p.scorer, JudgeScorer)]
    return [Question(shown, (Candidate("answer", text),), "rubric", p.text) for p in asked] if shown is not None else []


def _ask(recipe: ConstitutionRecipe, kind: Writing, found: Constitution, prompt: Prompt, text: str, critique: str) -> Ask:
    """The longest call for this prompt."""
    longest = max(found.of(prompt) or found.principles, key=lambda p: len(p.text + p.critique + p.revision))
    name = recipe.revise.critic if kind == "critique" else recipe.revise.reviser
    return Ask(kind, found.shown(prompt, _sees(recipe, name)) or prompt, text, longest, critique if kind == "revision" else "")


def _sees(recipe: ConstitutionRecipe, name: str) -> bool:
    """Is this critic or reviser shown images, as far as that costs anything?"""
    config = read_judges(recipe.constitution.judges).named(name) if name not in ("", RULES) else None
    return isinstance(config, EndpointConfig) and config.images


def _longest(recipe: ConstitutionRecipe, name: str) -> int:
    """Tokens of the longest text that this critic or reviser writes."""
    if name == RULES:
        return recipe.revise.max_tokens
    config = read_judges(recipe.constitution.judges).named(name) if name else None
    return config.max_tokens if isinstance(config, AskedConfig) else recipe.revise.max_tokens


def _measured(recipe: ConstitutionRecipe, found: Constitution, answers: Answered) -> tuple[int, float | None]:
    """Calls and price at most of the critic that is measured. Which answers are drawn hangs on their texts: those that cost most count."""
    n, name = recipe.measure.answers, recipe.measure.critic
    each = [
        [Ask("critique", found.shown(p, _sees(recipe, name)) or p, c.text, x) for x in found.of(p) if not isinstance(x.scorer, JudgeScorer)]
        for p, c in answers
    ]
    prices = [_price(recipe, found, "critique", name, asks) for asks in each]
    calls = sum(sorted((len(asks) for asks in each), reverse=True)[:n])
    if any(p is None for p in prices):
        return calls, None
    return calls, total(sorted((p for p in prices if p is not None), reverse=True)[:n])


def _price(recipe: ConstitutionRecipe, found: Constitution, kind: Writing, name: str, asks: Sequence[Ask]) -> float | None:
    """What these calls cost at most; of what runs on this machine nothing, and no model is loaded for it."""
    if name in ("", RULES) or not isinstance(read_judges(recipe.constitution.judges).named(name), EndpointConfig):
        return 0.0
    writer = writer_of(recipe, name, kind, found)
    return total([writer.price([a]) for a in asks])
