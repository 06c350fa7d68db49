"""One row of the table of layouts: which columns it needs, and what they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keel.data.fields import SYSTEM, Fields
from keel.types import Comparison, Record

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """``needs`` and ``also`` are the columns (any others become the prompt's ``meta``); ``fits`` looks at values where columns are not
    enough to tell layouts apart."""

    name: str
    needs: tuple[str, ...]
    also: tuple[str, ...]
    convert: Callable[[Fields, Values], Record | Comparison]
    example: Values
    fits: Callable[[Values], bool] = field(default=lambda _: True)

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(self.needs) | frozenset(self.also) | _COMMON

    def matches(self, values: Values) -> bool:
        return all(values.get(n) is not None for n in self.needs) and self.fits(values)

    def __call__(self, fields: Fields) -> Record | Comparison:
        """Convert one row. Raises FieldError naming the field."""
        for name in self.needs:
            fields.need(name)
        given = fields.get("meta", {})
        meta = {k: v for k, v in fields.values.items() if k not in self.columns}
        return self.convert(fields, {**(given if isinstance(given, dict) else {"meta": given}), **meta})


_COMMON = frozenset(
    {"id", "record_id", "prompt_id", "tools", "functions", "image", "images", "meta", "prompt_source_id", "schema", *SYSTEM}
)
PAIR_EXTRAS = ("margin", "strength", "confidence", "label", "tie", "weight")
