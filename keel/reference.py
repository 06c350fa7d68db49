"""Every setting of every verb, as Markdown, made from the config models: the page cannot disagree with the code.

What several verbs share stands once, under the class that they inherit it from; a section that was told before is not told again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keel.ablate.config import AblateRecipe
from keel.advise.config import AdviseRecipe
from keel.completion.keys import STAGE, write_keys
from keel.core.config import FieldDoc, Section, describe
from keel.critique.templates import WritingTemplate
from keel.evaluate.ab.config import AbConfig
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.judges.config import JudgesFile
from keel.judges.templates import Template
from keel.methods import ALGORITHMS, Algorithm
from keel.methods.credit.assign import CreditRule
from keel.pipeline import PipelineRecipe
from keel.release.config import GatesConfig
from keel.rewards.constitution.config import Constitution
from keel.serve.config import ServeRewardConfig
from keel.serve.policy.config import ChatConfig, ServePolicyConfig
from keel.serve.policy.filters import FilterFile
from keel.tune.config import TuneRecipe
from keel.verbs.annotate.recipe import AnnotateRecipe
from keel.verbs.assemble import AssembleRecipe
from keel.verbs.campaign.recipe import LabelRecipe
from keel.verbs.cases.config import CasesConfig
from keel.verbs.data_clean import DataCleanRecipe
from keel.verbs.data_show import DataShowRecipe
from keel.verbs.drift.run import DriftRecipe
from keel.verbs.eval_refusals.run import AnswersConfig
from keel.verbs.eval_reward.config import EvalRewardConfig
from keel.verbs.judge.recipe import JudgeRecipe, JudgeReportRecipe
from keel.verbs.mine.recipe import MineRecipe
from keel.verbs.run import RECIPES
from keel.verbs.scenes import ScenesRecipe
from keel.verbs.shared.continual import ContinualRecipe
from keel.verbs.shared.recipes import ModelRecipe, TrainRecipe
from keel.verbs.sweep.recipe import SweepRecipe

_INTRODUCTION = """# Settings

Made by `make reference` from the code; do not edit. Any setting can be given on the command line as `key.path=value`, the value written as
in YAML:

    keel rl recipes/tiny_grpo.yaml algorithm.name=rloo optim.lr=1e-3 rewards.0.weight=2

`N` stands for a place in a list (0 is the first), `KEY` for a name of your own. An unknown key is an error with a suggestion, and all
errors come at once. A recipe may begin with `base: OTHER.yaml`: that recipe is read first, this one is laid over it. `--dry-run` prints
the resolved recipe.
"""

_TITLES: Mapping[type[Section], str] = {
    ModelRecipe: "Every verb with a recipe",
    TrainRecipe: "Every verb that trains: `sft`, `reward`, `prefer`, `offline`, `rl`",
    ContinualRecipe: "After earlier data: `sft`, `prefer`, `rl`",
    DataShowRecipe: "`keel data show PATH`",
    DataCleanRecipe: "`keel data clean PATH --out FILE`",
    ScenesRecipe: "`keel scenes FOLDER`",
    AnnotateRecipe: "`keel annotate`",
    EvalRewardConfig: "`keel eval reward MODEL DATA`",
    HallucinationConfig: "`keel eval hallucination FILE --measure NAME`",
    AnswersConfig: "`keel eval refusals FILE`",
    ServePolicyConfig: "`keel serve policy MODEL`",
    FilterFile: "A file of filters",
    ServeRewardConfig: "`keel serve reward MODEL`",
    ChatConfig: "`keel chat MODEL [MODEL]`",
    SweepRecipe: "`keel sweep MODEL`",
    DriftRecipe: "`keel drift BEFORE NOW`",
    JudgeRecipe: "`keel judge RECIPE_OR_FILE`",
    JudgeReportRecipe: "`keel judge report --labels FILE --judge NAME`",
    JudgesFile: "A file of judges",
    Template: "A template of judges",
    Constitution: "A constitution",
    WritingTemplate: "A template of critics and revisers",
    PipelineRecipe: "`keel run`",
    LabelRecipe: "The stage `annotate` of `keel run`",
    MineRecipe: "The stage `mine` of `keel run`",
    AdviseRecipe: "`keel advise DATA`",
    TuneRecipe: "`keel tune RECIPE`",
    CasesConfig: "`keel cases RUN`, `keel mine RUN`",
    AblateRecipe: "`keel ablate RECIPE KEY...`",
    AbConfig: "`keel ab plan|check FILE`",
    GatesConfig: "`keel release RUN --gates FILE`, `keel export RUN`",
}


def setting_keys() -> str:
    """What completion offers: `keel/completion/keys.txt`."""
    own: dict[str, type[Section]] = {"run": PipelineRecipe, "data": DataShowRecipe, "annotate": AnnotateRecipe, "advise": AdviseRecipe}
    own |= {"chat": ChatConfig, "sweep": SweepRecipe, "drift": DriftRecipe, "judge": JudgeRecipe, "judge-report": JudgeReportRecipe}
    own |= {"serve": ServePolicyConfig, "eval-reward": EvalRewardConfig, "scenes": ScenesRecipe}
    own |= {
        "tune": TuneRecipe,
        "ablate": AblateRecipe,
        "cases": CasesConfig,
        "mine": CasesConfig,
        STAGE + "mine": MineRecipe,
        "assemble": AssembleRecipe,
        STAGE + "annotate": LabelRecipe,
    }
    paths = {verb: [doc.path for doc in describe(recipe)] for verb, recipe in {**RECIPES, **own}.items()}
    paths["run"] = [path for path in paths["run"] if not path.startswith("stages.")]
    return write_keys(paths)


def reference_markdown() -> str:
    """docs/reference.md: tables of settings, then the algorithms with the parts that their settings override."""
    recipes: list[type[Section]] = [
        ModelRecipe,
        TrainRecipe,
        ContinualRecipe,
        *RECIPES.values(),
        PipelineRecipe,
        LabelRecipe,
        MineRecipe,
        DataShowRecipe,
        DataCleanRecipe,
        ScenesRecipe,
        AnnotateRecipe,
        EvalRewardConfig,
        HallucinationConfig,
        AnswersConfig,
        ServePolicyConfig,
        FilterFile,
        ServeRewardConfig,
        ChatConfig,
        SweepRecipe,
        DriftRecipe,
        JudgeRecipe,
        JudgeReportRecipe,
        JudgesFile,
        Template,
        Constitution,
        WritingTemplate,
        AdviseRecipe,
        TuneRecipe,
        AblateRecipe,
        CasesConfig,
        GatesConfig,
    ]
    verbs: dict[type[Section], str] = {recipe: verb for verb, recipe in RECIPES.items()}
    told: dict[str, list[FieldDoc]] = {}
    parts = [_INTRODUCTION]
    for recipe in recipes:
        verb = verbs.get(recipe, "")
        title = _TITLES.get(recipe) or (f"`keel {verb}`" if verb != "preferences" else "The stage `preferences` of `keel run`")
        parts.append(f"## {title}\n\n{_sentence(recipe)}\n\n{_table(recipe, told)}")
    return "\n".join([*parts, _algorithms()])


def _sentence(recipe: type[Section]) -> str:
    """The class's own docstring, without the verb that the title names already, and where the rest stands."""
    text = " ".join(str(recipe.__doc__).split())
    text = text.split(": ", 1)[1] if text.startswith("`keel") and ": " in text else text
    base = next((t for t in (ContinualRecipe, TrainRecipe, ModelRecipe) if issubclass(recipe, t) and recipe is not t), None)
    return text[0].upper() + text[1:] + (f" Beside these, the settings of “{_TITLES[base]}”." if base is not None else "")


def _table(recipe: type[Section], told: dict[str, list[FieldDoc]]) -> str:
    """The rows that ``recipe`` adds to its base class; ``told`` are the sections that stand in tables above, by key."""
    base = recipe.__base__
    inherited = set(base.model_fields) if base is not None and issubclass(base, Section) else set[str]()
    by_key: dict[str, list[FieldDoc]] = {}
    for doc in describe(recipe):
        if not (recipe is PipelineRecipe and doc.path.startswith("stages.")):  # each stage's settings stand under its verb
            by_key.setdefault(doc.path.split(".")[0], []).append(doc)
    rows: list[str] = []
    for key, docs in by_key.items():
        if key in inherited:
            continue
        twin = next((k for k, before in told.items() if len(docs) > 1 and _same(docs, before)), None)
        rows += [_like(key, twin, docs, told[twin])] if twin else [_row(doc) for doc in _merged(docs)]
        told.setdefault(key, docs)
    if not rows:
        return "None of its own.\n"
    return "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def _inside(docs: Sequence[FieldDoc]) -> list[FieldDoc]:
    """The rows of a section without the key that it stands under."""
    return [replace(d, path=d.path.partition(".")[2], when=d.when.partition(".")[2]) for d in docs if "." in d.path]


def _same(docs: Sequence[FieldDoc], before: Sequence[FieldDoc]) -> bool:
    def shape(rows: Sequence[FieldDoc]) -> list[FieldDoc]:
        return [replace(d, default="") for d in _inside(rows)]

    return shape(docs) == shape(before)


def _like(key: str, twin: str, docs: Sequence[FieldDoc], before: Sequence[FieldDoc]) -> str:
    """One row for a section whose fields were told under another key, with the defaults that differ."""
    changed = [f"`{key}.{d.path}` = `{d.default}`" for d, b in zip(_inside(docs), _inside(before), strict=True) if d.default != b.default]
    own = next((d for d in docs if d.path == key), None)
    where = f"the fields of `{twin}`" if twin != key else f"the fields of `{key}`, see above"
    meaning = " ".join(x for x in (own.description if own else "", f"Defaults that differ: {', '.join(changed)}." if changed else "") if x)
    name = f"`{key}`" if own is not None else f"`{key}.*`"
    return f"| {name} | {where} | {f'`{own.default}`' if own else ''} | {_cell(meaning)} |"


def _merged(docs: Sequence[FieldDoc]) -> Iterator[FieldDoc]:
    """Fields that several kinds of a section share, once; ``when`` then lists the kinds, or nothing where all have it."""
    kinds: dict[str, list[str]] = {}  # place of the union -> its kinds
    for doc in docs:
        if doc.when and doc.when not in kinds.setdefault(doc.when.partition("=")[0], []):
            kinds[doc.when.partition("=")[0]].append(doc.when)
    groups: dict[FieldDoc, list[str]] = {}
    for doc in docs:
        groups.setdefault(replace(doc, when=""), []).append(doc.when)
    for doc, found in groups.items():
        place = found[0].partition("=")[0]
        everywhere = not place or len(found) == len(kinds[place])
        yield doc if everywhere else replace(doc, when=f"{place}=" + "|".join(w.partition("=")[2] for w in found))


def _row(doc: FieldDoc) -> str:
    kind, _, names = doc.when.rpartition("=")
    only = f" Only with `{kind.rpartition('.')[2]}: {names.replace('|', '`, `')}`." if doc.when else ""
    default = doc.default if doc.default == "required" else f"`{doc.default}`"
    return "| " + " | ".join(_cell(x) for x in (f"`{doc.path}`", doc.type, default, doc.description + only)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _algorithms() -> str:
    """The table of algorithms: what an empty setting under ``algorithm`` means for each."""
    names = ("credit", "rewards", "objective", "reduce", "KL", "critic", "epochs")
    lines = [
        "## Algorithms",
        "",
        "What an empty setting of `algorithm` means, by `algorithm.name`. One row of `ALGORITHMS` in `keel/methods/rl.py` each.",
        "",
        "| name | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    lines += [f"| `{name}` | " + " | ".join(_parts(algorithm)) + " |" for name, algorithm in ALGORITHMS.items()]
    return "\n".join([*lines, ""])


def _parts(a: Algorithm) -> tuple[str, ...]:
    plain = CreditRule(a.credit.estimator)
    numbers = [f"{k}={getattr(a.credit, k):g}" for k in ("gamma", "lam") if getattr(a.credit, k) != getattr(plain, k)]
    credit = " ".join([a.credit.estimator, *numbers, *(["whitened"] if a.credit.whiten else [])])
    clip = f" {a.clip[0]:g}/{a.clip[1]:g}" if a.policy_loss.clips else ""
    clip += f" + {a.old_kl.coef:g} KL to the old policy, target {a.old_kl.target:g}" if a.old_kl.target is not None else ""
    beta = f" beta={a.kl.beta:g}" if a.kl is not None and a.kl.estimator == "jsd" else ""
    kl = f"{a.kl.estimator}{beta} in the {a.kl.place}, {a.kl.coef:g}" if a.kl is not None else "none"
    critic = f"clip {a.critic.clip:g}, vf_coef {a.critic.vf_coef:g}" if a.critic is not None else "none"
    overlong = [f"over-long penalty {a.overlong.factor:g} over {a.overlong.buffer:.0%}"] if a.overlong is not None else []
    rewards = ", ".join(overlong + ([f"groups differ, {a.refill_rounds} rounds"] if a.refill_rounds else [])) or "as they are"
    parts: tuple[Any, ...] = (credit, rewards, a.objective + clip, a.reduce, kl, critic, a.epochs)
    return tuple(str(p) for p in parts)
