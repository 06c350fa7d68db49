"""What a batch of conversations with a world looked like."""

from __future__ import annotations

from collections.abc import Sequence

from keel.types import Conversation, Group

CUT = ("turns", "tokens", "answer")


def conversation_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Of rollouts that are conversations; nothing where none is.

    ``environment/turns/{mean,max}`` answers of a conversation; ``environment/truncated`` how many were cut, and by which limit
    (``environment/truncated_by/{turns,tokens,answer}``); ``environment/failed`` how many failed, which takes them out of their groups;
    ``environment/calls`` and ``environment/bad_calls`` tool calls, and those that could not be read or that no tool takes so;
    ``environment/forks`` turns before which the chat template wrote the past anew, or that an agent asked elsewhere. Of agents
    ``environment/agent/branches/mean`` the streams of answers of one; ``environment/agent/refused`` requests that got an error;
    ``environment/agent/timed`` agents whose answers were drawn beside others that only time decided on. All but ``failed`` and ``refused``
    are of those that did not fail.
    """
    all_of = [r for g in groups for r in g.rollouts if r.conversation is not None]
    if not all_of:
        return {}
    whole = [(r, r.conversation) for r in all_of if r.finish_reason != "error" and r.conversation is not None]
    turns = [c.turns for _, c in whole]
    cut = {name: float(sum(c.ended == name for _, c in whole)) for name in CUT}
    counts = {
        "failed": float(len(all_of) - len(whole)),
        "truncated": sum(cut.values()),
        **{f"truncated_by/{name}": n for name, n in cut.items()},
        "calls": float(sum(c.calls for _, c in whole)),
        "bad_calls": float(sum(c.bad_calls for _, c in whole)),
        "forks": float(sum(len(r.forks) for r, _ in whole)),
    }
    counts |= _of_agents([r.conversation for r in all_of if r.conversation is not None], [c for _, c in whole])
    means = {"turns/mean": sum(turns) / len(turns), "turns/max": float(max(turns))} if turns else {}
    return {f"environment/{name}": value for name, value in {**means, **counts}.items()}


def _of_agents(all_of: Sequence[Conversation], whole: Sequence[Conversation]) -> dict[str, float]:
    """Nothing where no agent asked."""
    asked = [c.asking for c in all_of if c.asking is not None]
    kept = [c.asking for c in whole if c.asking is not None]
    if not asked:
        return {}
    found = {"agent/refused": float(sum(a.refused for a in asked)), "agent/timed": float(sum(a.timed for a in kept))}
    return found | ({"agent/branches/mean": sum(a.branches for a in kept) / len(kept)} if kept else {})
