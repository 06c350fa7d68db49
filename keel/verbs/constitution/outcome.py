"""What scored answers and revisions come to: demonstrations, pairs, tasks for people, and what is none of them, by name. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.critique.revise import FAILED, SATISFIED, Draft
from keel.critique.rlaif import Answer, Compared, compare, cut_off, for_people
from keel.data.left_out import LeftOut
from keel.feedback.rows import task_row
from keel.rewards.constitution.config import Constitution
from keel.rewards.constitution.scoring import Scorer
from keel.types import Task
from keel.verbs.constitution import rows
from keel.verbs.constitution.recipe import ConstitutionRecipe
from keel.verbs.constitution.summary import by_principle, commonest, compared_in, mean, revision

ANSWERS, DEMONSTRATIONS, PAIRS, REVISIONS = "answers.jsonl", "demonstrations.jsonl", "pairs.jsonl", "revision_pairs.jsonl"
HISTORY, AUDIT = "history.jsonl", "audit.jsonl"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Each draft is taught, or stands in ``left_out`` with the reason; so does each pair whose sides are too alike to be sure of."""

    answers: Sequence[Answer]
    drafts: Sequence[Draft]
    compared: Compared
    tasks: Sequence[Task]  # pairs that people check
    taught: Sequence[Draft]
    left_out: Sequence[LeftOut]

    @property
    def cut(self) -> list[Answer]:
        """Answers that end where the tokens did."""
        return [a for a in self.answers if cut_off(a)]

    def files(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """The rows of each file."""
        return {
            ANSWERS: [rows.answer_row(a) for a in self.answers],
            DEMONSTRATIONS: [rows.demonstration_row(d) for d in self.taught],
            PAIRS: [rows.scored_pair_row(p) for p in self.compared.kept],
            REVISIONS: [rows.revision_pair_row(d) for d in self.drafts if d.improved],
            HISTORY: [rows.draft_row(d) for d in self.drafts],
            AUDIT: [task_row(t) for t in self.tasks],
        }


def sorted_out(recipe: ConstitutionRecipe, constitution: Constitution, answers: Sequence[Answer], drafts: Sequence[Draft]) -> Outcome:
    """Compare the answers, choose what people check, and which drafts teach: those that satisfy (all that did not fail, unless
    ``revise.keep`` asks for it), and no half of an answer where ``cut=worse`` says that such are worse."""
    compared = compare(answers, recipe.pairs, constitution.how, constitution.floor, recipe.cut != "worse")
    tasks = [rows.audit_task(pair, arm, recipe.audit) for pair, arm in for_people(compared, recipe.audit, recipe.seed)]
    cut = {(a.prompt.prompt_id, a.candidate.text) for a in answers if cut_off(a)}
    halves = [d for d in drafts if recipe.cut == "worse" and (d.prompt.prompt_id, d.text) in cut]
    taught = [d for d in drafts if d not in halves and (d.done == SATISFIED or (not recipe.revise.keep and d.done != FAILED))]
    why = [(d, "it was cut off" if d in halves else d.done) for d in drafts if d not in taught]
    lost = [LeftOut(d.prompt.prompt_id, d.prompt.source_id, f"no demonstration: {done}") for d, done in why]
    lost += [LeftOut(p.name, p.chosen.prompt.source_id, f"low confidence {p.confidence:.2f}") for p in compared.unsure]
    return Outcome(answers, drafts, compared, tasks, taught, lost)


def told(found: Outcome, scorer: Scorer, lines: Mapping[str, int]) -> dict[str, Any]:
    """The part of the summary that follows from the outcome alone. ``lines``: how many each file has."""
    shown = (DEMONSTRATIONS, PAIRS, REVISIONS, AUDIT)
    return {
        "prompts": len({a.prompt.prompt_id for a in found.answers}),
        "answers": len(found.answers),
        **{name.removesuffix(".jsonl"): lines[name] for name in shown},
        "principles": by_principle(scorer.constitution, found.answers),
        "score": mean([a.scored.score for a in found.answers if not a.scored.error]),
        "compared": compared_in(found.compared),
        "conflicts": [{"won": w, "lost": x, "by": by, "count": n} for (w, x, by), n in commonest(found.compared)],
        "overruled": found.compared.overruled,
        "revised": revision(found.drafts, scorer),
    }
