"""The generated reference: every field with its real default, in words."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from keel.core.config import FieldDoc, Section, describe


class Inner(Section):
    lr: float = Field(1e-5, gt=0, le=1, description="Rate.")
    stop: tuple[str, ...] = Field(("a",), description="Stops.")


class A(Section):
    kind: Literal["a"] = Field("a", description="Kind.")
    size: int = Field(description="Size.")


class B(Section):
    kind: Literal["b"] = Field("b", description="Kind.")
    name: str = Field("", description="Name.")


class Outer(Section):
    inner: Inner = Field(Inner(lr=0.5), description="Inner.")
    maybe: Inner | None = Field(None, description="Maybe.")
    many: tuple[Annotated[A | B, Field(discriminator="kind")], ...] = Field((), description="Many.")
    named: dict[str, Inner] = Field(default_factory=dict[str, Inner], description="Named.")
    flag: bool = Field(True, description="Flag.")


def test_every_field_with_type_default_and_description() -> None:
    docs = list(describe(Outer))
    assert docs == [
        FieldDoc("inner.lr", "number > 0 and <= 1", "0.5", "Rate."),
        FieldDoc("inner.stop", "list of text", "[a]", "Stops."),
        FieldDoc("maybe", "section or null", "null", "Maybe."),
        FieldDoc("maybe.lr", "number > 0 and <= 1", "1e-05", "Rate."),
        FieldDoc("maybe.stop", "list of text", "[a]", "Stops."),
        FieldDoc("many", "list of section", "[]", "Many."),
        FieldDoc("many.N.kind", "'a'", "a", "Kind.", "many.N.kind=a"),
        FieldDoc("many.N.size", "whole number", "required", "Size.", "many.N.kind=a"),
        FieldDoc("many.N.kind", "'b'", "b", "Kind.", "many.N.kind=b"),
        FieldDoc("many.N.name", "text", '""', "Name.", "many.N.kind=b"),
        FieldDoc("named", "mapping of name: section", "{}", "Named."),
        FieldDoc("named.KEY.lr", "number > 0 and <= 1", "1e-05", "Rate."),
        FieldDoc("named.KEY.stop", "list of text", "[a]", "Stops."),
        FieldDoc("flag", "true or false", "true", "Flag."),
    ]
