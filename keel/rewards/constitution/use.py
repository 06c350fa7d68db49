"""A constitution at work: which one, which judge says how well its principles are kept, and what lets that judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import Field

from keel.core.config import Section
from keel.core.errors import ConfigError
from keel.judges.ask import Judge
from keel.judges.config import (
    AnyJudge,
    EndpointConfig,
    JudgesFile,
    JudgeUse,
    LocalConfig,
    PanelConfig,
    RewardModelConfig,
    ScriptedConfig,
)
from keel.judges.gate import admit
from keel.judges.templates import load_template
from keel.rewards.constitution.config import Constitution, read_constitution, shipped

_SCRIPTED_SCALE = (1.0, 10.0)


class ConstitutionUse(Section):
    """Principles, and who says how well they are kept."""

    path: str = Field(
        min_length=1,
        description="File of principles (YAML or JSON), or one of ours: safe_accurate_useful, vlm, checkable, each also as NAME_zh.",
    )
    judges: str = Field(default=JudgesFile.SAMPLE, description="File of judges.")
    judge: str = Field(default="", description="Name of the judge in it; needed where a principle has the scorer `judge`.")
    report: str = Field(default="", description="Report of `keel judge report` that lets this judge work here.")
    override: str = Field(default="", description="Name of a judge that works here without a passed report; stands in the manifest.")
    samples: int = Field(default=1, ge=1, description="How often the judge is asked about each principle; more tell how sure it is.")

    def used_files(self) -> Iterator[tuple[str, str, bool]]:
        """(key, path, is it a model?) of all that decides the scores. What cannot be read is told of when it is used."""
        if self.path not in shipped():
            yield "path", self.path, False
        try:
            found = read_constitution(self.path)
        except ConfigError:
            return
        for path in found.files():
            yield "path.scorer", path, False
        if self.judge:
            use = JudgeUse(judges=self.judges, judge=self.judge, report=self.report)
            yield from use.judge_files("")

    def read(self, writes: bool = False) -> Constitution:
        """The principles, held against the judge. ``writes``: does somebody of the file of judges criticise or revise? Raises
        ConfigError."""
        found = read_constitution(self.path)
        if found.judged and not self.judge:
            first = next(p.name for p in found.principles if p.scorer.type == "judge" and p.weight > 0)
            raise ConfigError(f"{self.path}: principle {first} is scored by a judge, and none is named", "judge: NAME of judges")
        given = sorted(self.changed & {"judge", "report", "override", "samples"} | (self.changed & {"judges"} if not writes else set()))
        if not found.judged and given:
            more = ", and nobody of that file writes" if given == ["judges"] else ""
            raise ConfigError(f"{', '.join(given)} would have no effect: no principle is scored by a judge{more}", "leave it out")
        return found

    def admitted(
        self, make: Callable[[str, str], Judge], what: str, writes: bool = False
    ) -> tuple[Constitution, Judge | None, dict[str, Any]]:
        """The principles, the judge if there is one, and what the manifest is told of it. Raises ConfigError for a judge that may not be
        ``what``."""
        found = self.read(writes)
        if not found.judged:
            return found, None, {}
        judge = make(self.judges, self.judge)
        return found, judge, admit(judge, self.report, self.override, what)


def scale_of(name: str, judges: JudgesFile) -> tuple[float, float]:
    """The ends of a judge's scale for a single criterion. Raises ConfigError for one that knows no criteria, and for a panel whose members
    have several scales: their mean would mean nothing."""
    return _scale(name, judges.named(name), judges)


def _scale(name: str, config: AnyJudge, judges: JudgesFile) -> tuple[float, float]:
    match config:
        case ScriptedConfig():
            return _SCRIPTED_SCALE
        case EndpointConfig() | LocalConfig():
            template = load_template(config.templates.rubric)
            return float(template.low), float(template.high)
        case RewardModelConfig():
            raise ConfigError(
                f"judge {name}: a reward model has one score and cannot say how well a principle is kept", "name another judge"
            )
        case PanelConfig():
            scales = {member: _scale(member, judges.named(member), judges) for member in config.members}
            if len(set(scales.values())) > 1:
                told = ", ".join(f"{m} {low:g}-{high:g}" for m, (low, high) in scales.items())
                raise ConfigError(f"judge {name}: its members score on different scales ({told})", "give them templates of one scale")
            return next(iter(scales.values()))
