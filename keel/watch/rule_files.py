"""Files of rules: those that come with Keel, those of a user, with tests of their own; and which rules a run has."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from keel.core.config import Section, load
from keel.core.errors import ConfigError
from keel.watch.config import Rule, WatchConfig
from keel.watch.names import nearest

FOLDER = Path(__file__).parent / "rules"
SHIPPED = ("default", "documents")


class Expected(Section):
    """An alarm that a test expects."""

    rule: str = Field(description="Which rule.")
    step: int = Field(ge=0, description="The step at which it begins to speak.")
    resolved: int | None = Field(default=None, ge=0, description="The step at which it is over; empty: it is not over at the end.")


class RuleTest(Section):
    """A test of the rules of a file, on made-up series: exactly these alarms are raised, and no other."""

    name: str = Field(description="What is tested.")
    series: dict[str, str] = Field(
        description="Values of each metric from step 1 on: `1 2.5 _ NaN`; `1x4` is 1 and four more of it, `1+2x3` is 1 3 5 7; `_` is a "
        "step without it. `eval/...` and `test/...` are evaluations."
    )
    settings: dict[str, float] = Field(default={}, description="Settings that the rules ask for, by path.")
    expect: tuple[Expected, ...] = Field(default=(), description="All alarms, in any order; none: the rules are silent.")

    @field_validator("series", mode="before")
    @classmethod
    def _one_number_is_a_series(cls, given: Any) -> Any:
        """YAML reads `kl: 3` as a number."""
        return {k: str(v) if isinstance(v, int | float) else v for k, v in given.items()} if isinstance(given, dict) else given


class RuleFile(Section):
    """A file of rules."""

    rules: tuple[Rule, ...] = Field(description="The rules.")
    tests: tuple[RuleTest, ...] = Field(default=(), description="Tests of them: `keel watch test FILE`.")

    @model_validator(mode="after")
    def _fits_together(self) -> RuleFile:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules have the name {twice[0]!r}")
        for test in self.tests:
            for expected in test.expect:
                if expected.rule not in names:
                    near = nearest(expected.rule, names)
                    raise ValueError(f"test {test.name!r}: no rule {expected.rule!r}" + (f"; did you mean {near!r}?" if near else ""))
        return self


def read_rules(name: str) -> RuleFile:
    """A rule file: `default`, `documents`, or a path. Raises ConfigError."""
    if name in SHIPPED:
        return _shipped(name)
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"there is no rule file {name}", f"give a path, or one of {', '.join(SHIPPED)}")
    return load(RuleFile, path)


@functools.cache
def _shipped(name: str) -> RuleFile:
    """They do not change while a process runs."""
    return load(RuleFile, FOLDER / f"{name}.yaml")


def resolve(config: WatchConfig) -> tuple[Rule, ...]:
    """The rules in force: the defaults, those of ``files``, the recipe's own; one of the same name takes an earlier one's place. A rule
    that may act here has ``always``; the recipe's own may."""
    found: dict[str, Rule] = {}
    for name in (("default",) if config.defaults else ()) + config.files:
        found |= {rule.name: rule for rule in read_rules(name).rules}
    own = {rule.name: rule.model_copy(update={"always": bool(rule.act)}) for rule in config.rules}
    if config.act:
        found = {name: rule.model_copy(update={"always": bool(rule.act)}) for name, rule in found.items()}
    return tuple((found | own).values())
