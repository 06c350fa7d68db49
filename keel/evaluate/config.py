"""What an evaluation is asked to do. Its sampling and its randomness are its own: training settings never leak into it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section
from keel.core.python_file import names_a_file
from keel.evaluate.parts import ChoicesConfig, LmEvalConfig, PromptSet, RefusalsConfig, RetentionConfig
from keel.rewards.detectors.choose import DetectorSettings
from keel.types import SamplingParams


class EvaluateConfig(Section):
    """Evaluation of a model, alone or against a baseline, on held-out prompts."""

    prompts: tuple[str, ...] = Field(default=(), description="Files of held-out prompts, in any layout that training data may have.")
    limit: int | None = Field(default=None, ge=1, description="Take only the first N rows of each of these files.")
    samples: int = Field(default=2, ge=1, description="Answers sampled for each prompt and model.")
    max_tokens: int = Field(default=128, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.7, ge=0, description="Sampling temperature of the evaluation; 0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Nucleus of the evaluation's sampling; 1 keeps everything.")
    seed: int = Field(default=0, description="Seed of the evaluation's sampling and resampling; independent of the training seed.")
    draws: int = Field(default=10_000, ge=100, description="Bootstrap resamples behind each interval.")
    level: float = Field(default=0.95, gt=0, lt=1, description="Level of the intervals.")
    languages: tuple[str, ...] = Field(
        default=(), description="Languages that are scored; others are sampled and shown only, and counted. Empty = all."
    )
    gold: bool | str = Field(
        default=False,
        description="Score with the hidden utility of simulated annotators: true = the quickstart's shop assistant's; or FILE.py:NAME, as "
        "preferences.annotators.utility.",
    )
    detector: str | DetectorSettings = Field(
        default="",
        description="What finds what answers make up, by type, and how much of the truth they tell: FILE.py:NAME of fn(prompt, text) -> "
        "Found, or a section with a detector by name, as the hallucination reward's; empty = not looked for.",
    )
    success: float = Field(default=0.0, description="With an environment: a conversation that is worth more than this has succeeded.")
    kl_prompts: int = Field(default=40, ge=0, description="Prompts whose answers give the KL between the two models; 0 = leave it out.")
    retention_text: str = Field(
        default="", description="Text file unrelated to the training, for the perplexity before and after; empty = skip."
    )
    retention_tokens: int = Field(default=2048, ge=2, description="Tokens of that text that are read.")

    headline: str = Field(
        default="",
        description="Scorer that the result speaks of first: gold, judge, people, reward_model, or a reward's name. Empty = the "
        "first that there is of people, gold, judge, reward model.",
    )
    groups: tuple[str, ...] = Field(
        default=(), description="Fields of the prompts by whose values results are split too, like annotator or user_group."
    )
    reference: str = Field(
        default="", description="Field of the prompts with the reference answer (or a list), for BLEU and CIDEr beside the headline."
    )
    shots: tuple[int, ...] = Field(
        default=(), description="Numbers of examples before the question, like [0, 2, 4]: a few-shot curve of each model. Empty = none."
    )
    shot_examples: str = Field(default="", description="File of demonstrations that the examples of `shots` are taken from, in order.")
    sets: list[PromptSet] = Field(default=[], description="More sets of prompts by role: those out of the distribution are told apart.")
    cluster: str = Field(
        default="", description="Field of the prompts by whose values they belong together, in the gap's interval; empty = each by itself."
    )
    refusals: RefusalsConfig | None = Field(default=None, description="Refusals of safe and of unsafe prompts; {} = Keel's own prompts.")
    hhh: ChoicesConfig | None = Field(default=None, description="Helpful, honest, harmless: better answers preferred; {} = Keel's own.")
    retention: RetentionConfig | None = Field(default=None, description="What of earlier abilities is left.")
    lm_eval: LmEvalConfig | None = Field(default=None, description="Tasks of lm-evaluation-harness (pip install keel-align[lm-eval]).")

    @model_validator(mode="after")
    def _sets_are_read(self) -> EvaluateConfig:
        names = [s.name for s in self.sets]
        if len(set(names)) < len(names):
            raise ValueError("two of evaluate.sets have the same name")
        if self.sets and not self.prompts and all(s.role == "out" for s in self.sets):
            raise ValueError("a set of role `out` is compared with prompts: give prompts, or a set of role `in`")
        if self.cluster and not any(s.role == "out" for s in self.sets):
            raise ValueError("cluster would have no effect without a set of role `out`")
        return self

    @model_validator(mode="after")
    def _shots_have_examples(self) -> EvaluateConfig:
        if bool(self.shots) != bool(self.shot_examples):
            raise ValueError("shots and shot_examples go together: how many examples, and where they stand")
        if any(b <= a for a, b in zip((-1, *self.shots), self.shots)):
            raise ValueError(f"shots must rise from 0 or more, not {list(self.shots)}")
        return self

    @field_validator("gold")
    @classmethod
    def _names_a_function(cls, value: bool | str) -> bool | str:
        if isinstance(value, str) and not names_a_file(value):
            raise ValueError(f"gold is true, false or FILE.py:NAME, not {value!r}")
        return value

    @field_validator("detector")
    @classmethod
    def _is_a_detector(cls, value: str | DetectorSettings) -> str | DetectorSettings:
        if isinstance(value, str) and value and not names_a_file(value):
            raise ValueError(f"detector is FILE.py:NAME or a section like {{detector: {value}, ...}}, not {value!r}")
        return value

    @property
    def detecting(self) -> DetectorSettings | None:
        """The detector's settings, where one is asked for."""
        return (DetectorSettings(detector=self.detector) if self.detector else None) if isinstance(self.detector, str) else self.detector

    def sampling(self, stop_tokens: Sequence[int] = (), banned_tokens: Sequence[int] = ()) -> SamplingParams:
        """The evaluation's own sampling distribution; token ids come from the renderer."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop_tokens=tuple(stop_tokens),
            banned_tokens=tuple(banned_tokens),
        )
