"""The loader: YAML recipe + ``key.path=value`` overrides -> a frozen pydantic model. Unknown keys are errors with a suggestion, and all
errors come at once. Each room owns its own sections; this file knows none of them."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from keel.errors import ConfigError


class Section(BaseModel):
    """Base of every config model: frozen, unknown keys refused, every field with a ``Field(description=...)``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=False)


C = TypeVar("C", bound=Section)
