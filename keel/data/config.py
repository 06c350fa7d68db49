"""Settings of data: where the rows are, what they look like, what they become."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section


class ConversionConfig(Section):
    """How labels of one kind become labels of another."""

    to: Literal["none", "pairs", "unpaired", "demonstrations", "prompts"] = Field(
        default="none",
        description="pairs (from ratings, rankings, comparisons), unpaired (from pairs), demonstrations (the best answers), or prompts.",
    )
    balance: int = Field(
        default=0, ge=0, le=3, description="Worse answers a better one meets at most, clearest first (1:1 to 1:3); 0 = all."
    )
    weight: Literal["equal", "distance"] = Field(
        default="distance", description="Weight of a ranking's pairs: equal, or by distance of ranks."
    )
    dimension: str = Field(default="", description="Which score of a rating decides; empty = the mean of all its scores.")
    min_gap: float = Field(default=0.0, ge=0, description="Ratings that differ by this much or less make no pair.")
    ties: Literal["drop", "keep"] = Field(default="drop", description="Equal ratings, ranks, votes: no pair, or one with label 0.5.")


class WithoutImageConfig(Section):
    """Rows against answering without looking: a question whose image is taken away, answered by saying that there is no image."""

    share: float = Field(default=0.0, ge=0, le=1, description="How many of them, as a share of the rows with images; 0 = none.")
    answers: list[str] = Field(
        default=[], description="What is answered; of several, one by hash among those in the question's language. Empty = Keel's own."
    )

    @field_validator("answers")
    @classmethod
    def _say_something(cls, value: list[str]) -> list[str]:
        if not all(answer.strip() for answer in value):
            raise ValueError("an answer must say something")
        return value


class DataConfig(Section):
    """Rows to read: files, folders, Hugging Face data sets or files inside installed packages."""

    path: str | list[str] = Field(
        description="File, folder, data set id (org/name[:config][@revision]) or package:PKG/FILE; or a list of them."
    )
    layout: str = Field(default="auto", description="Name of the rows' layout; auto = found from the columns and shown.")
    keys: dict[str, str] = Field(default={}, description="Keel's column name -> the file's, e.g. {prompt: question, completion: response}.")
    split: str = Field(default="train", description="Split of a Hugging Face data set, or of a folder whose files are named after splits.")
    images: str = Field(
        default="", description="Folder where relative paths of images start; empty = the folder of the file that names them."
    )
    limit: int | None = Field(default=None, ge=1, description="Take only the first N rows of each path.")
    strict: bool = Field(default=False, description="Stop at bad rows instead of setting them aside and counting them.")
    ties: bool = Field(default=True, description="Accept pairs marked as ties (label 0.5); false makes them bad rows.")
    weights: list[float] = Field(
        default=[], description="Share of each path in the mixture (no row twice); empty = everything of every path."
    )
    convert: ConversionConfig = Field(default=ConversionConfig(), description="Conversion to another kind of label.")
    without_image: WithoutImageConfig = Field(
        default=WithoutImageConfig(), description="Added rows that ask without the image (demonstrations and pairs)."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths, also when only one was given."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    @field_validator("path")
    @classmethod
    def _some_path(cls, value: str | list[str]) -> str | list[str]:
        if not value or (isinstance(value, list) and not all(value)):
            raise ValueError("give a file, folder, data set id or package:PKG/FILE")
        return value

    @model_validator(mode="after")
    def _weights_match_paths(self) -> DataConfig:
        if self.weights and len(self.weights) != len(self.paths):
            raise ValueError(f"weights has {len(self.weights)} entries for {len(self.paths)} paths: one weight a path")
        if self.weights and min(self.weights) <= 0:
            raise ValueError("weights must be above 0")
        return self
