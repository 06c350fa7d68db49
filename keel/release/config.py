"""Settings of `keel release`: what goes out, and the gates that it must pass."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from keel.core.config import Section
from keel.models.quantise import Way
from keel.release.gguf.write import Quant

Limited = TypeVar("Limited", bound="RefusalGate | LengthGate | NumberGate")


def _limited(gate: Limited) -> Limited:
    if gate.at_least is None and gate.at_most is None:
        raise ValueError("give at_least, at_most or both")
    return gate


class ExportConfig(Section):
    """What is written."""

    to: Literal["merged", "adapter", "gguf"] = Field(
        default="merged", description="merged: a folder for transformers and vLLM; adapter: for PEFT; gguf: one file for llama.cpp."
    )
    dtype: Literal["fp32", "bf16"] = Field(default="fp32", description="merged: what the weights are kept in.")
    quant: Quant = Field(default="f32", description="gguf: what the matrices are kept in.")

    @model_validator(mode="after")
    def _are_read(self) -> ExportConfig:
        if self.dtype != "fp32" and self.to != "merged":
            raise ValueError(f"dtype would have no effect with to={self.to}: it is of merged")
        if self.quant != "f32" and self.to != "gguf":
            raise ValueError(f"quant would have no effect with to={self.to}: it is of gguf")
        return self


class CardConfig(Section):
    """What people say of the model in its card; what is not said stands there as unknown."""

    name: str = Field(default="", description="The model's name; empty = that of the run.")
    licence: str = Field(default="", description="Its licence, e.g. apache-2.0; empty = the base model's where its files say it.")
    languages: list[str] = Field(default=[], description="Languages it is meant for, e.g. [en, zh].")
    intended: str = Field(default="", description="What it is meant for, and what not.")
    limits: list[str] = Field(default=[], description="Known limits, a sentence each.")
    contact: str = Field(default="", description="Whom to tell when it does harm.")


class GateConfig(Section):
    """What every gate has."""

    name: str = Field(default="", description="Name in the verdict; empty = the kind.")

    @property
    def title(self) -> str:
        return self.name or str(getattr(self, "kind", ""))


class SampledGate(GateConfig):
    """What every gate has that goes by an interval."""

    fewest: int = Field(default=10, ge=1, description="With fewer samples than these the gate cannot tell, whatever the interval says.")


class TextsGate(SampledGate):
    """A gate over the log-likelihood of given texts."""

    texts: str = Field(description='File of texts: {"text": ...} rows, or demonstrations, whose answers count.')
    limit: int = Field(default=200, ge=1, description="Texts at most.")
    at_most: float = Field(default=0.02, description="Largest change of the mean negative log-likelihood, relative: 0.02 is 2%.")


class QuantisationGate(TextsGate):
    """Loss of likelihood by fewer bits, beside the model that it was made from: paired by text."""

    kind: Literal["quantisation"] = Field(default="quantisation", description="Weights in fewer bits.")
    way: Way | Literal["released"] = Field(
        default="released", description="released = as the model goes out; else kept so; int8_dynamic rounds what is multiplied too."
    )


class RetentionGate(TextsGate):
    """Likelihood of unrelated text beside the base model's: what was forgotten."""

    kind: Literal["retention"] = Field(default="retention", description="Unrelated text before and after.")
    baseline: str = Field(default="", description="The model before; empty = the model that the first run of the lineage began with.")


class AnswersGate(SampledGate):
    """A gate over answers that the released model gives to prompts."""

    prompts: str = Field(description="File of prompts.")
    limit: int = Field(default=200, ge=1, description="Prompts at most.")
    max_tokens: int = Field(default=128, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.0, ge=0, description="0 = the likeliest answer.")


class RefusalGate(AnswersGate):
    """Share of prompts that are refused: over-refusal of harmless ones (at_most), safety on harmful ones (at_least)."""

    kind: Literal["refusal"] = Field(default="refusal", description="Refusals, told by their wording.")
    at_least: float | None = Field(default=None, ge=0, le=1, description="Smallest share that must be refused.")
    at_most: float | None = Field(default=None, ge=0, le=1, description="Largest share that may be refused.")
    partial: bool | None = Field(
        default=None,
        description="Does an answer that helps with a part count as refused? Empty = the stricter: yes under at_most, no above at_least.",
    )

    @property
    def counts_partial(self) -> bool:
        return self.partial if self.partial is not None else self.at_most is not None

    @model_validator(mode="after")
    def _has_a_limit(self) -> RefusalGate:
        if self.partial is None and self.at_least is not None and self.at_most is not None:
            raise ValueError("with at_least and at_most, say whether an answer that helps with a part is refused: partial=true or false")
        return _limited(self)


class LengthGate(AnswersGate):
    """Mean length of answers, in tokens."""

    kind: Literal["length"] = Field(default="length", description="Length of answers.")
    at_least: float | None = Field(default=None, ge=0, description="Shortest mean.")
    at_most: float | None = Field(default=None, ge=0, description="Longest mean.")

    @model_validator(mode="after")
    def _has_a_limit(self) -> LengthGate:
        if self.at_most is not None and self.at_most >= self.max_tokens:
            raise ValueError(f"at_most {self.at_most:g} can never be crossed: no answer is longer than max_tokens, {self.max_tokens}")
        return _limited(self)


class SpeedGate(GateConfig):
    """Tokens a second of one answer at a time, on this machine, in a process of its own."""

    kind: Literal["speed"] = Field(default="speed", description="Speed of answers.")
    at_least: float = Field(gt=0, description="Fewest tokens a second.")
    repeats: int = Field(default=8, ge=6, le=1000, description="Answers that are timed, after one that is not.")
    tokens: int = Field(default=64, ge=1, description="Tokens of each answer.")


class MemoryGate(GateConfig):
    """Largest memory of a process that loads the model and answers once, in MB."""

    kind: Literal["memory"] = Field(default="memory", description="Memory.")
    at_most: float = Field(gt=0, description="Most MB.")
    tokens: int = Field(default=64, ge=1, description="Tokens of the answer.")


class NumberGate(SampledGate):
    """Any number with an interval ({mean, low, high, n}) of an evaluation: a run directory's summary.json or a JSON file."""

    kind: Literal["number"] = Field(default="number", description="A number of an evaluation.")
    path: str = Field(description="Run directory or JSON file.")
    field: str = Field(description="Where in it, with dots, e.g. win_rate or data.heldout.accuracy.")
    at_least: float | None = Field(default=None, description="Smallest value.")
    at_most: float | None = Field(default=None, description="Largest value.")
    model: str = Field(
        default="",
        description="Fingerprint of the model that a JSON file measured, where the file does not say it itself (`model_fingerprint`).",
    )

    @model_validator(mode="after")
    def _has_a_limit(self) -> NumberGate:
        return _limited(self)


class HallucinationGate(NumberGate):
    """A rate of `keel eval hallucination --json FILE`, and how much of the answers it covers."""

    kind: Literal["hallucination"] = Field(default="hallucination", description="What the model makes up.")
    field: str = Field(default="rates.hallucination", description="Which rate.")
    coverage: float = Field(default=0.0, ge=0, le=1, description="Smallest share of answers that the measure could judge.")


class RewardGate(SampledGate):
    """Loss of pair accuracy when a reward model's weights are kept in fewer bits: paired by prompt, in accuracy (0.01 is one pair in a
    hundred)."""

    kind: Literal["reward_quantisation"] = Field(default="reward_quantisation", description="A reward model in fewer bits.")
    pairs: str = Field(description="File of labelled pairs that it was not trained on.")
    limit: int = Field(default=1000, ge=1, description="Records at most.")
    way: Way | Literal["released"] = Field(default="released", description="How the weights are kept, as in `quantisation`.")
    at_most: float = Field(default=0.01, description="Largest loss of accuracy.")


class ChecklistGate(GateConfig):
    """A checklist: every item passes, by the program's finding or by the word of a person."""

    kind: Literal["checklist"] = Field(default="checklist", description="A checklist.")
    path: str = Field(
        description="JSON file of `keel check RUN --out FILE`, or another one with a list `items` (or `checks`) of {name, state: "
        "pass | fail | cannot_tell}."
    )
    answers: str = Field(
        default="",
        description="YAML file in which people answer what a program cannot tell: {ITEM: {state: pass | fail, by: NAME, note: why}}. What "
        "has failed stays so.",
    )


class SignOffGate(GateConfig):
    """A person's word, in a YAML file {name, date, model, decision: approve | refuse, note}; no file, no word."""

    kind: Literal["sign_off"] = Field(default="sign_off", description="A person signs.")
    path: str = Field(description="The file.")
    people: int = Field(default=1, ge=1, description="How many different people must approve; the file then holds a list.")


AnyGate = Annotated[
    QuantisationGate
    | RetentionGate
    | RefusalGate
    | LengthGate
    | SpeedGate
    | MemoryGate
    | NumberGate
    | HallucinationGate
    | RewardGate
    | ChecklistGate
    | SignOffGate,
    Field(discriminator="kind"),
]


class GatesConfig(Section):
    """`keel release RUN --gates FILE`: a model goes out where every gate passes."""

    export: ExportConfig = Field(default=ExportConfig(), description="What goes out.")
    card: CardConfig = Field(default=CardConfig(), description="What the model card says beside what is measured.")
    gates: list[AnyGate] = Field(min_length=1, description="What must hold.")

    @model_validator(mode="after")
    def _names_differ(self) -> GatesConfig:
        names = [gate.title for gate in self.gates]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two gates are called {twice[0]}: give one of them a name")
        return self
