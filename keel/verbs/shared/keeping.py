"""Who keeps a run's answers for people to look at, and who asks them."""

from __future__ import annotations

from collections.abc import Sequence

from keel.loops.auditing import Auditor
from keel.loops.keeping import Keeper
from keel.loops.online import Actors
from keel.render.renderer import Renderer
from keel.runs.rollouts import Rollouts
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


def auditor_of(session: Session) -> Auditor | None:
    """As `settings.tracking.audit` asks; None where nobody is asked."""
    config = session.recipe.settings.tracking.audit
    return Auditor(session.run.path, config, session.recipe.seed) if config.every else None
