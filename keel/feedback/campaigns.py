"""What is asked of whom: campaigns, guidelines and annotators. Functions of an open connection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from keel.core.errors import ConfigError, DataError
from keel.feedback import schema
from keel.feedback.answers import FITS
from keel.feedback.campaign import Campaign
from keel.feedback.campaign_settings import check_settings, read_settings, settings_row
from keel.feedback.rows import check_annotator, dumps
from keel.feedback.sql import is_sqlite, run
from keel.types import Annotator


class ConflictError(DataError):
    """Something of this name is there and says something else: nothing was stored."""


def add_campaign(c: Connection, campaign: Campaign, now: float) -> None:
    """Make a campaign. The same one again changes nothing; ConflictError: another one has that name; ConfigError: bad values."""
    if not campaign.name or not campaign.protocol or campaign.kind not in FITS or campaign.wanted < 1 or campaign.lease_seconds <= 0:
        raise ConfigError(f"campaign {campaign.name!r}: name, protocol and kind are needed, wanted and lease_seconds must be above 0")
    if min(campaign.gold_share, campaign.repeat_share) < 0 or campaign.gold_share + campaign.repeat_share > 0.9:
        raise ConfigError(f"campaign {campaign.name}: gold_share and repeat_share must not be below 0, together at most 0.9")
    check_settings(campaign.settings, campaign.kind)
    before = c.execute(select(schema.campaign).where(schema.campaign.c.name == campaign.name)).one_or_none()
    if before is None:
        row = {
            **asdict(campaign),
            "paused": int(campaign.paused),
            "settings": dumps(settings_row(campaign.settings)),
            "changed": 0,
            "at": now,
        }
        c.execute(insert(schema.campaign), row)
    elif replace(campaign_of(before), paused=campaign.paused) != campaign:
        raise ConflictError(f"campaign {campaign.name} is there with other settings", "choose another name, or use update_campaign")


def update_campaign(c: Connection, name: str, **changes: Any) -> Campaign:
    """Change ``paused``, shares, ``lease_seconds`` or ``settings``; what defines the votes (wanted, kind, protocol, seed) stays."""
    allowed = ("paused", "gold_share", "repeat_share", "lease_seconds", "settings", "guideline")
    refused = [key for key in changes if key not in allowed]
    if refused:
        raise ConfigError(f"campaign {name}: {refused[0]} cannot be changed", f"what can: {', '.join(allowed)}")
    found = replace(get_campaign(c, name), **changes)
    if min(found.gold_share, found.repeat_share) < 0 or found.gold_share + found.repeat_share > 0.9 or found.lease_seconds <= 0:
        raise ConfigError(f"campaign {name}: shares must not be below 0 and together at most 0.9, lease_seconds above 0")
    check_settings(found.settings, found.kind)
    row = {key: getattr(found, key) for key in allowed} | {"paused": int(found.paused), "settings": dumps(settings_row(found.settings))}
    c.execute(update(schema.campaign).where(schema.campaign.c.name == name).values(**row))
    return found


_CAMPAIGN = select(schema.campaign).where(schema.campaign.c.name == bindparam("name"))


def get_campaign(c: Connection, name: str) -> Campaign:
    """Raises DataError when there is none of that name."""
    row = run(c, _CAMPAIGN, name=name).one_or_none()
    if row is None:
        raise unknown_campaign(name)
    return campaign_of(row)


def unknown_campaign(name: str) -> DataError:
    """What is raised for a campaign that is not there."""
    return DataError(f"campaign {name!r} is not in the store", "add_campaign makes one")


def campaigns(c: Connection) -> tuple[Campaign, ...]:
    return tuple(campaign_of(row) for row in c.execute(select(schema.campaign).order_by(schema.campaign.c.name)))


def add_guideline(c: Connection, version: str, text: str, weights: Mapping[str, float], now: float) -> None:
    """A version of the guideline is never changed. Raises ConflictError when it is there with another text."""
    row = {"version": version, "text": text, "weights": dumps(dict(weights))}
    _once(c, schema.guideline, "version", row, now)


def get_guideline(c: Connection, version: str) -> tuple[str, dict[str, float]]:
    """Text and weights by dimension. Raises DataError when there is no such version."""
    row = c.execute(select(schema.guideline).where(schema.guideline.c.version == version)).one_or_none()
    if row is None:
        raise DataError(f"guideline {version!r} is not in the store", "add_guideline adds a version")
    return row.text, json.loads(row.weights)


def add_annotator(c: Connection, annotator: Annotator, now: float) -> None:
    """Raises ConflictError when one of that id is there with another kind, identity or meta."""
    check_annotator(annotator)
    row = {"annotator_id": annotator.annotator_id, "kind": annotator.kind, "identity": annotator.identity}
    _once(c, schema.annotator, "annotator_id", {**row, "meta": dumps(dict(annotator.meta))}, now)


def annotators(c: Connection) -> tuple[Annotator, ...]:
    rows = c.execute(select(schema.annotator).order_by(schema.annotator.c.annotator_id))
    return tuple(Annotator(r.annotator_id, r.kind, r.identity, json.loads(r.meta)) for r in rows)


def touch(c: Connection, campaign: str) -> None:
    """People who have gone through the items look from the beginning again."""
    c.execute(update(schema.campaign).where(schema.campaign.c.name == campaign).values(changed=schema.campaign.c.changed + 1))


def chunks(ids: Sequence[str], size: int = 500) -> list[Sequence[str]]:
    """Lists short enough for one statement."""
    return [ids[i : i + size] for i in range(0, len(ids), size)]


def add_missing(c: Connection, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose key is not there yet."""
    if rows:
        made = (sqlite if is_sqlite(c) else postgresql).insert(table).on_conflict_do_nothing()
        c.execute(made, list(rows))


def _once(c: Connection, table: Any, key: str, row: Mapping[str, Any], now: float) -> None:
    before = c.execute(select(table).where(table.c[key] == row[key])).mappings().one_or_none()
    if before is None:
        c.execute(insert(table), {**row, "at": now})
    elif any(before[name] != value for name, value in row.items()):
        raise ConflictError(f"{table.name} {row[key]!r} is there with other content", "choose another name: what is there is not changed")


def campaign_of(row: Any) -> Campaign:
    """The campaign of a row that has its columns."""
    found = {name: getattr(row, name) for name in _FIELDS}
    return Campaign(**{**found, "paused": bool(row.paused), "settings": read_settings(row.settings)})


_FIELDS = tuple(f.name for f in fields(Campaign))
