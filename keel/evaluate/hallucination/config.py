"""Settings of `keel eval hallucination`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from keel.core.config import Section

MeasureName = Literal["chair", "objhal", "pope", "amber", "mmhal", "hallusion"]


class HallucinationConfig(Section):
    """`keel eval hallucination FILE --measure NAME`: how often the answers in a file say what the image does not show."""

    file: str = Field(description="The answers: JSONL, JSON, or the published benchmark's own format.")
    measure: MeasureName = Field(description="Which measure.")
    mode: Literal["fixed", "original"] = Field(
        default="fixed", description="original: the numbers of the published script, its quirks included; fixed: the quirks mended."
    )
    model: str = Field(
        default="",
        description="Whose answers these are: a folder or a GGUF file, whose fingerprint stands in the JSON (gates of `keel release` need "
        "it), or a name. Empty = what the rows say in `model_fingerprint` and `model`.",
    )
    truth: str = Field(default="", description="What is right, by id; empty = it stands in the rows of answers (for `amber`: needed).")
    objects: str = Field(
        default="",
        description="`chair`, `objhal`: text file of object names, an object a line, its names between commas, the first stands for all.",
    )
    pairs: str = Field(
        default="",
        description="`chair`, `objhal`: text file of words that count as one name (`toilet seat -> toilet`), or the published `chair.py`.",
    )
    instances: list[str] = Field(default=[], description="`chair`, `objhal`: COCO files of instances; several are read as one.")
    references: list[str] = Field(default=[], description="`chair`, `objhal`: COCO files of reference captions; several are read as one.")
    extracted: str = Field(
        default="",
        description="`objhal`: rows {image_id, extract_objs: [...]}, what a model listed of each caption; empty = it stands in "
        "the rows of answers, or words of the list are taken.",
    )
    associations: str = Field(
        default="", description="`amber`: JSON object of words that stand for each object (the benchmark's `relation.json`)."
    )
    safe_words: str = Field(default="", description="`amber`: text file of words that are never counted, one a line.")
    nouns: Literal["auto", "vocabulary", "nltk"] = Field(
        default="auto",
        description="`amber`: how nouns are found; auto = nltk in mode original where it is installed, else words of the associations.",
    )
    similarity: Literal["auto", "exact", "spacy"] = Field(
        default="auto",
        description="`amber`: when two words are the same; auto = spaCy in mode original where it and its model are installed, else exact.",
    )
    threshold: float = Field(default=0.8, gt=0, lt=1, description="`amber`: words whose spaCy similarity is above this are the same.")
    verdict: str = Field(
        default="",
        description="`hallusion`: field with the judge's verdict; empty = one that the benchmark's scripts write, else the answer is read.",
    )
    rows: str = Field(default="", description="File for the verdict on each answer (JSONL).")
    check_sample: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="`chair`, `objhal`: share of the verdicts that become tasks for people (`--check-sample`); 0 = none.",
    )
    checks: str = Field(
        default="", description="File of these tasks; empty = beside the answers, NAME.checks.jsonl. The verdicts lie in another beside it."
    )
    seed: int = Field(default=0, description="Of the draw of `check_sample`.")
    draws: int = Field(default=2000, ge=100, description="Bootstrap resamples behind each interval.")
