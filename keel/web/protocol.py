"""What a page needs to know of a campaign: dimensions with weights, kinds of spans, steps of strength, the time gate. And its checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from keel.core.errors import ConfigError
from keel.feedback.campaigns import Campaign
from keel.feedback.rows import RowError
from keel.types import Answer, Scores, Spans
from keel.web.questions import DIMENSIONS, REASONS, SPAN_KINDS, Dimension


@dataclass(frozen=True, slots=True)
class Page:
    """Settings of the annotator's page, `CampaignSettings.page` of the campaign."""

    dimensions: tuple[Dimension, ...] = DIMENSIONS
    span_kinds: tuple[str, ...] = SPAN_KINDS
    strength_steps: int = 3  # how clear: 1 = nobody is asked
    min_read_ms: int = 0  # the time gate: answers wait that long
    reason: str = "optional"  # in words: off, optional, required
    language: str = ""  # of the page at first; empty: the browser's
    ahead: int = 6  # items that the page keeps ready, 1..19: more of them last longer without the network
    completion_code: str = ""  # shown when a person has done all; empty: a code of the person's own
    completion_url: str = ""  # where a platform's link leads with the code

    def public(self) -> dict[str, Any]:
        """What the annotator's page reads."""
        known = asdict(self)
        return {k: v for k, v in known.items() if k not in ("completion_code", "completion_url")}


def page_of(campaign: Campaign) -> Page:
    """The page's settings of a campaign. Raises ConfigError naming one that is unknown or wrong."""
    given = dict(campaign.settings.page)
    names = [f.name for f in fields(Page)]
    wrong = [name for name in given if name not in names]
    where = f"campaign {campaign.name}: page"
    if wrong:
        raise ConfigError(f"{where}.{wrong[0]} is unknown", f"known: {', '.join(names)}")
    try:
        if "dimensions" in given:
            given["dimensions"] = tuple(Dimension(**d) for d in given["dimensions"])
        if "span_kinds" in given:
            given["span_kinds"] = tuple(str(kind) for kind in given["span_kinds"])
        page = Page(**given)
        wrong = _wrong(page)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None
    if wrong:
        raise ConfigError(f"{where}.{wrong[0]}")
    return page


def protocol_row(campaign: Campaign, page: Page) -> dict[str, Any]:
    """What the page needs to know of a campaign."""
    return {"kind": campaign.kind, "name": campaign.protocol, "guideline": campaign.guideline, **page.public()}


def _wrong(page: Page) -> list[str]:
    checks = {
        f"reason must be one of {', '.join(REASONS)}": page.reason in REASONS,
        "strength_steps must be at least 1": page.strength_steps >= 1,
        "min_read_ms must not be below 0": page.min_read_ms >= 0,
        "ahead must be between 1 and 19": 1 <= page.ahead <= 19,
        "dimensions must hold one, each with low < high and no weight below 0": bool(page.dimensions)
        and all(d.low < d.high and d.weight >= 0 for d in page.dimensions),
        "span_kinds must hold one": bool(page.span_kinds),
        "completion_url must begin with https://": not page.completion_url or page.completion_url.startswith("https://"),
    }
    return [said for said, fine in checks.items() if not fine]


def check_protocol(answer: Answer, page: Page) -> None:
    """Does an answer use the campaign's own dimensions, scale and kinds? Raises RowError naming the field."""
    if isinstance(answer, Scores):
        known = {d.name: d for d in page.dimensions}
        _same(list(answer.scores), list(known), "answer.scores")
        for name, score in answer.scores.items():
            if not known[name].low <= score <= known[name].high:
                raise RowError(f"answer.scores.{name}", f"must be in {known[name].low}..{known[name].high}, is {score}")
    elif isinstance(answer, Spans):
        for i, span in enumerate(answer.spans):
            if span.kind not in page.span_kinds:
                raise RowError(f"answer.spans.{i}.kind", f"must be one of {', '.join(page.span_kinds)}, is {span.kind!r}")


def _same(given: Sequence[str], wanted: Sequence[str], field_name: str) -> None:
    if sorted(given) != sorted(wanted):
        raise RowError(field_name, f"must hold a score for each of {', '.join(wanted)}, has {', '.join(given)}")
