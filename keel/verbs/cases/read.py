"""What a finished run says of its answers: prompts, the answers of each model (of RL: at each step), scores, what is marked in them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from keel.core.errors import DataError
from keel.evaluate.compare import Answer, PromptAnswers
from keel.feedback.rows import RowError
from keel.feedback.texts import prompt_from
from keel.runs import logs, rollouts
from keel.runs.directory import read_manifest, read_summary
from keel.runs.places import folders
from keel.types import ImagePart, Message, Prompt
from keel.verbs.cases.talks import same_words

Key = tuple[str, str, int]  # prompt, model, number of the answer


APART = "an agent asked behind something else than the prompt"


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt with everybody's answers. ``whole``: the prompt is known as it was asked, not its last turn alone."""

    prompt: Prompt
    text: str  # the last user turn
    language: str
    category: str
    images: tuple[str, ...]
    sides: Mapping[str, tuple[Answer, ...]]  # by model
    whole: bool = True

    @property
    def wording(self) -> str:
        """What the user said in all turns."""
        return "\n".join(m.text for m in self.prompt.messages if m.role == "user") or self.text


@dataclass(frozen=True, slots=True)
class Read:
    """A run's cases. ``subjects``: whose failures are looked for. ``found``: reasons that the run itself recorded."""

    run: Path
    verb: str
    name: str  # of the policy, as the manifest has it
    cases: Mapping[str, Case]
    subjects: tuple[str, ...]
    baseline: str
    headline: str
    summary: Mapping[str, Any]
    found: Mapping[Key, Mapping[str, float]] = field(default_factory=dict[Key, "Mapping[str, float]"])
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])

    def answers(self) -> Iterator[tuple[Key, Case, Answer]]:
        """The answers of the subjects."""
        for prompt_id, case in self.cases.items():
            for model in self.subjects:
                for i, answer in enumerate(case.sides.get(model, ())):
                    yield (prompt_id, model, i), case, answer


def read_run(run: Path) -> Read:
    """Raises DataError for a run that keeps no answers."""
    manifest = read_manifest(run)
    if manifest is None:
        raise DataError(f"{run} is no run directory", "name the folder of a keel eval or keel rl run")
    if (run / "samples" / "evaluation.jsonl").is_file():
        return _evaluation(run, manifest)
    return _rl(run, manifest)


def _evaluation(run: Path, manifest: Mapping[str, Any]) -> Read:
    summary = read_summary(run)
    if summary is None:
        raise DataError(f"{run} has not ended: its answers are not all there", f"go on with it: the same command with run_dir={run}")
    recipe: Mapping[str, Any] = manifest.get("config") or {}
    baseline = str(recipe.get("baseline_name") or "baseline")
    first = str(recipe.get("model_name") or "model")
    asked = {row["prompt_id"]: row for row in logs.rows_of(run / "samples" / "prompts.jsonl")}
    cases: dict[str, Case] = {}
    lost = Counter[str]()
    sides: defaultdict[str, dict[str, tuple[Answer, ...]]] = defaultdict(dict)
    many = run / "samples" / "models.jsonl"
    rows = [(first, row) for row in logs.rows_of(run / "samples" / "evaluation.jsonl")]
    rows += [(str(row["model"]), row) for row in logs.rows_of(many)]
    for model, row in rows:
        one = PromptAnswers.from_row(row)
        if model == first:
            sides[one.prompt_id][baseline] = _behind_the_prompt(one.before, lost)
        sides[one.prompt_id][model] = _behind_the_prompt(one.after, lost)
        prompt, whole = _prompt(one, asked.get(one.prompt_id))
        images = tuple(_place(source, folders(manifest)) for source in one.images)
        prompt = _with_places(prompt, folders(manifest))
        cases[one.prompt_id] = Case(prompt, one.prompt, one.language, one.category, images, sides[one.prompt_id], whole)
    models = tuple(dict.fromkeys(model for model, _ in rows))
    found = _refusals(run, cases, sides, models, folders(manifest))
    headline = str((summary.get("board") or {}).get("headline") or "")
    return Read(run, "eval", str(recipe.get("model", "")), cases, models, baseline, headline, summary, found, dict(+lost))


def _behind_the_prompt(answers: Sequence[Answer], lost: Counter[str]) -> tuple[Answer, ...]:
    """Those that stand behind the prompt, as it is; an agent's that it asked for behind something else are counted."""
    kept = tuple(a for a in answers if not any("branch" in turn for turn in a.turns))
    lost[APART] += len(answers) - len(kept)
    return kept


def _prompt(row: PromptAnswers, asked: Mapping[str, Any] | None) -> tuple[Prompt, bool]:
    if asked is not None:
        try:
            return prompt_from(asked), True
        except RowError as error:
            raise DataError(f"samples/prompts.jsonl: {error.message}") from None
    return Prompt(row.prompt_id, (Message("user", row.prompt),)), False


def _asked_in(file: str, prompt_id: str, text: str, asked: Mapping[str, Any] | None, bases: Sequence[Path]) -> tuple[Prompt, bool]:
    """The prompt whose last turn is ``text``, and whether that is all of it (``asked``: of ``asked_row``)."""
    if not asked:
        return Prompt(prompt_id, (Message("user", text),)), asked is not None
    try:
        return _with_places(prompt_from(asked), bases), True
    except RowError as error:
        raise DataError(f"{file}: {error.message}") from None


def _pictures(prompt: Prompt) -> tuple[str, ...]:
    return tuple(p.source for m in prompt.messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart))


def _with_places(prompt: Prompt, bases: Sequence[Path]) -> Prompt:
    """The prompt with pictures that are found from any folder."""

    def placed(part: Any) -> Any:
        return replace(part, source=_place(part.source, bases)) if isinstance(part, ImagePart) else part

    turns = tuple(m if isinstance(m.content, str) else replace(m, content=tuple(map(placed, m.content))) for m in prompt.messages)
    return replace(prompt, messages=turns)


def _place(source: str, bases: Sequence[Path]) -> str:
    """A picture's path as the run that named it saw it: relative ones begin where it was started."""
    if not source or source.startswith("data:") or Path(source).is_absolute():
        return source
    return str(next((base / source for base in bases if (base / source).is_file()), Path(source)))


def _refusals(
    run: Path, cases: dict[str, Case], sides: Mapping[str, dict[str, tuple[Answer, ...]]], models: tuple[str, ...], bases: Sequence[Path]
) -> dict[Key, dict[str, float]]:
    """Answers to safe prompts that refuse, and to unsafe ones that comply; their prompts become cases of their own."""
    found: dict[Key, dict[str, float]] = {}
    for row in logs.rows_of(run / "samples" / "refusals.jsonl"):
        prompt_id, model, side = f"{row['side']}/{row['prompt_id']}", str(row["model"]), row["side"]
        said = [a for a in row["answers"] if a is not None and a.strip()]
        sides[prompt_id][model] = tuple(Answer(text) for text in said)
        prompt, whole = _asked_in("samples/refusals.jsonl", row["prompt_id"], row["prompt"], row.get("asked"), bases)
        cases[prompt_id] = Case(prompt, row["prompt"], "", f"{side} prompts", _pictures(prompt), sides[prompt_id], whole)
        for i, label in enumerate(row["labels"] if model in models else ()):
            if side == "safe" and label != "none":
                found[prompt_id, model, i] = {f"refusal:{label}": 1.0}
            elif side == "unsafe" and label == "none":
                found[prompt_id, model, i] = {"complied": 1.0}
    return found


def _rl(run: Path, manifest: Mapping[str, Any]) -> Read:
    """The last evaluation's answers, or the last training step's where none was kept; those of other steps stand beside."""
    files, bases = [f for f in rollouts.files(run) if not f.undone], folders(manifest)
    kinds = {f.kind for f in files}
    kind = "eval" if "eval" in kinds else "train"
    lost = Counter[str]()
    sides: defaultdict[str, dict[str, list[Answer]]] = defaultdict(dict)
    prompts: dict[str, tuple[Prompt, bool]] = {}
    found: dict[Key, dict[str, float]] = {}
    last = max((f.step for f in files if f.kind == kind), default=0)
    subject = f"step {last}"
    for file in files:
        if file.kind not in (kind, "alarm"):
            continue
        for row in rollouts.read(file):
            if row.error:
                lost["sampling failed"] += 1
                continue
            if any("branch" in turn for turn in row.turns):
                lost[APART] += 1
                continue
            scores = dict(row.parts) | ({} if row.reward is None else {"reward": row.reward})
            name = subject if row.rule else f"step {row.step}"
            there = sides[row.prompt_id].setdefault(name, [])
            prompts[row.prompt_id] = _asked_in(f"rollouts/{file.path.name}", row.prompt_id, row.prompt, row.asked, bases)
            answer = Answer(row.text, rules=scores, tokens=sum(row.sampled), turns=tuple(row.turns))
            if any(same_words(a) == same_words(answer) for a in there):
                continue
            if row.rule:
                found[row.prompt_id, name, len(there)] = {f"alarm:{row.rule}": 1.0}
            there.append(answer)
    cases = {
        i: Case(
            prompt,
            prompt.last_user_text,
            str(prompt.meta.get("language", "")),
            str(prompt.meta.get("category", "")),
            _pictures(prompt),
            {m: tuple(a) for m, a in sides[i].items()},
            whole,
        )
        for i, (prompt, whole) in prompts.items()
        if subject in sides[i]
    }
    if not cases:
        raise DataError(f"{run} keeps no answers", "keel eval keeps them; keel rl does where settings.tracking.rollouts is on")
    recipe: Mapping[str, Any] = manifest.get("config") or {}
    verb = str(manifest.get("verb", "rl"))
    return Read(run, verb, str(recipe.get("model", "")), cases, (subject,), "", "reward", read_summary(run) or {}, found, dict(+lost))
