"""Who keeps a run's answers for people to look at, and who asks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from keel.loops.auditing import Auditor
from keel.loops.keeping import Keeper
from keel.loops.online import Actors
from keel.loops.red_team import RedTeam
from keel.render.renderer import Renderer
from keel.runs.rollouts import Rollouts
from keel.types import Branch, Group, Prompt
from keel.verbs.shared.session import Session


def keeper_of(session: Session, renderer: Renderer, actors: Actors) -> Keeper | None:
    """As `settings.tracking.rollouts` asks, listening to the session's alarms; None where nothing is kept."""
    config = session.recipe.settings.tracking.rollouts
    if not config.every:
        return None

    def pieces(tokens: Sequence[int]) -> list[str]:
        return [renderer.tokenizer.decode([token], skip_special_tokens=False) for token in tokens]

    store = Rollouts(session.run.path, config.every, int(config.max_mb * 1e6))
    keeper = Keeper(store, pieces, actors.policy.logprobs, actors.reference_logprobs)
    session.bus.add(keeper)
    return keeper


def red_team_of(
    session: Session, renderer: Renderer, judge: Callable[[tuple[Group, ...]], Sequence[Group]], max_tokens: int
) -> RedTeam | None:
    """As `settings.tracking.red_team` asks; None where there is none. ``judge`` scores as evaluations do."""
    config = session.recipe.settings.tracking.red_team

    def answer(prompt: Prompt, text: str) -> tuple[Branch, str]:
        tokens_T = torch.tensor(renderer.tokenizer.encode(text, add_special_tokens=False)[:max_tokens], dtype=torch.int64)
        whole_T = renderer.closed(prompt, tokens_T)
        return Branch(whole_T, torch.ones(len(whole_T), dtype=torch.bool)), renderer.decode(tokens_T)

    return RedTeam(session.run.path, config, session.recipe.seed, judge, answer) if config.every else None


def auditor_of(session: Session) -> Auditor | None:
    """As `settings.tracking.audit` asks; None where nobody is asked."""
    config = session.recipe.settings.tracking.audit
    return Auditor(session.run.path, config, session.recipe.seed) if config.every else None
