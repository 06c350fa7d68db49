"""Files that keep images and what is said of them apart, or everything of one image in one place: COCO's annotations, Visual Genome's
regions and questions, tables whose rows share an image. They become one row a caption, image, region or question.

Nothing is left out: an entry that cannot be used becomes a bad row that names it by its list and number (``annotations.3.caption``).
A row's line is the number of its image in the file, so that the order of the annotations changes nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from keel.data.rows import BadRow, RawRow, Rows, json_type, row

_LONGEST_INDEX = 64  # characters; no image is as short as that in base64
_OTHER_LAYOUTS = ("prompt", "messages", "conversations", "instruction", "question", "chosen")

Objects = Sequence[Mapping[str, Any]]


class _EntryError(Exception):
    """What is wrong with which key of an entry."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key, self.reason = key, reason


def is_coco(data: Any) -> bool:
    """Is a JSON value COCO's captions or instances: images and annotations in lists of their own, joined by ``image_id``?"""
    if not isinstance(data, dict) or not all(_objects(data.get(name)) for name in ("images", "annotations")):
        return False
    said = data["annotations"]
    return any("caption" in entry for entry in said) or (_objects(data.get("categories")) and any("category_id" in e for e in said))


def coco_rows(data: Mapping[str, Any], file: Path, halves: bool) -> Rows:
    """Rows of COCO's files: one a caption, with all captions of its image under ``references``; or one an image, with its objects under
    ``instances`` and their names under ``objects``. Bad rows come first. ``halves``: whether the text may hold half of a character."""
    captions = any("caption" in entry for entry in data["annotations"])
    images, bad = _images(data["images"], file)
    names = {str(c["id"]): c["name"] for c in data.get("categories", ()) if "id" in c and _is_text(c.get("name"))}
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in images}
    spoilt: dict[str, str] = {}  # image -> the first of its annotations that cannot be read
    for i, entry in enumerate(data["annotations"]):
        try:
            key = _image_of(entry, images)
            found[key].append(_caption(entry) if captions else _instance(entry, names))
        except _EntryError as error:
            place = f"annotations.{i}.{error.key}"
            spoilt.setdefault(str(entry.get("image_id")), place)
            bad.append(BadRow(str(file), i + 1, place, error.reason, dict(entry)))
    yield from bad
    for key, (number, image) in images.items():
        entries = sorted(found[key], key=_order)
        if captions and not entries and key not in spoilt:
            yield BadRow(str(file), number, f"images.{number - 1}", f"image {image['id']} has no caption", dict(image))
        elif captions:
            for values in _caption_rows(image, entries):
                yield row(values, file, number, halves)
        elif key in spoilt:
            reason = f"one of its objects cannot be read ({spoilt[key]}), so that what is there is not known"
            yield BadRow(str(file), number, f"images.{number - 1}", reason, dict(image))
        else:
            yield row(_instances_row(image, entries), file, number, halves)


def _objects(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(entry, dict) for entry in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _images(entries: Objects, file: Path) -> tuple[dict[str, tuple[int, Mapping[str, Any]]], list[BadRow]]:
    """Images by id, each with its number in the file from 1, and those that cannot be used."""
    found: dict[str, tuple[int, Mapping[str, Any]]] = {}
    bad: list[BadRow] = []
    for number, entry in enumerate(entries, start=1):
        key, reason = "", ""
        if entry.get("id") is None:
            key, reason = "id", "is missing"
        elif str(entry["id"]) in found:
            key, reason = "id", f"{entry['id']} is the id of images.{found[str(entry['id'])][0] - 1} too"
        elif not _is_text(entry.get("file_name")):
            key, reason = "file_name", "is missing" if entry.get("file_name") is None else "is no text"
        if key:
            bad.append(BadRow(str(file), number, f"images.{number - 1}.{key}", reason, dict(entry)))
        else:
            found[str(entry["id"])] = (number, entry)
    return found, bad


def _image_of(entry: Mapping[str, Any], images: Mapping[str, Any]) -> str:
    if entry.get("image_id") is None:
        raise _EntryError("image_id", "is missing")
    if str(entry["image_id"]) not in images:
        raise _EntryError("image_id", f"no usable image has the id {entry['image_id']}")
    return str(entry["image_id"])


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is None:
        raise _EntryError(key, "is missing")
    if not isinstance(value, str):
        raise _EntryError(key, f"must be text, is {json_type(value)}")
    if not value.strip():
        raise _EntryError(key, "is empty")
    return value.strip()


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any, n: int) -> bool:
    """Are these ``n`` finite numbers, the last two of them (a box's width and height) not below 0?"""
    return isinstance(value, list | tuple) and len(value) == n and all(map(_number, value)) and min(value[-2:]) >= 0


def _caption(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": entry.get("id"), "caption": _text(entry, "caption")}


def _instance(entry: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """An object as detectors write it: ``bbox`` is [x, y, width, height] in pixels. Its mask is left out."""
    if str(entry.get("category_id")) not in names:
        given = entry.get("category_id")
        raise _EntryError("category_id", "is missing" if given is None else f"no category has the id {given}")
    if not _numbers(entry.get("bbox"), 4):
        raise _EntryError("bbox", "must be four numbers: x, y, width, height")
    kept = {k: entry[k] for k in ("id", "category_id", "bbox", "area", "iscrowd") if k in entry}
    return {**kept, "category": names[str(entry["category_id"])]}


def _order(entry: Mapping[str, Any]) -> tuple[bool, float, str]:
    """By id where ids are numbers, then by content: the order in the file does not count."""
    given = entry.get("id")
    number = isinstance(given, int | float)
    return (not number, float(given) if number else 0.0, json.dumps(entry, sort_keys=True, default=str))


def _caption_rows(image: Mapping[str, Any], entries: Objects) -> Iterable[dict[str, Any]]:
    said = list(dict.fromkeys(entry["caption"] for entry in entries))
    for entry in entries:
        values = {"image": image["file_name"], "image_id": image["id"], "caption": entry["caption"], "references": said}
        yield values if entry["id"] is None else {"id": entry["id"], **values}


def _instances_row(image: Mapping[str, Any], entries: Objects) -> dict[str, Any]:
    size = {k: image[k] for k in ("width", "height") if k in image}
    names = list(dict.fromkeys(sorted(entry["category"] for entry in entries)))
    return {"image": image["file_name"], "image_id": image["id"], **size, "objects": names, "instances": list(entries)}


# --- rows that hold several, and rows that share an image ---------------------------------------------------------------------------


def spread(rows: Iterable[RawRow]) -> tuple[list[RawRow], list[BadRow]]:
    """Rows with one a region or question of Visual Genome, and with images in place of the indices of the rows that hold them."""
    found: list[RawRow] = []
    bad: list[BadRow] = []
    for raw in rows:
        name = _holds(raw.values)
        if name is None:
            found.append(raw)
            continue
        for one in _entries(raw, name):
            found.append(one) if isinstance(one, RawRow) else bad.append(one)
    return _with_shared_images(found), bad


def _holds(values: Mapping[str, Any]) -> str | None:
    """``regions`` or ``qas`` where a row is one of Visual Genome's images with a list of them."""
    if any(name in values for name in _OTHER_LAYOUTS):
        return None
    for name, keys in (("regions", ("phrase", "region_id")), ("qas", ("question", "qa_id"))):
        inner = values.get(name)
        named = bool(inner) or values.get("id") is not None or values.get("image_id") is not None
        if named and isinstance(inner, list) and all(isinstance(e, dict) and any(k in e for k in keys) for e in inner):
            return name
    return None


def _entries(raw: RawRow, name: str) -> Rows:
    """The regions or questions of one image, by their ids."""
    inner = raw.values[name]
    if not inner:
        what = "region" if name == "regions" else "question"
        yield BadRow(raw.file, raw.line, name, f"the image has no {what}", raw.values)
    found: list[dict[str, Any]] = []
    for i, entry in enumerate(inner):
        try:
            values = _region(entry) if name == "regions" else _question(entry)
            found.append({**values, **_image_named(raw.values, entry)})
        except _EntryError as error:
            yield BadRow(raw.file, raw.line, f"{name}.{i}.{error.key}", error.reason, dict(entry))
    for values in sorted(found, key=_order):
        yield replace(raw, values={k: v for k, v in values.items() if v is not None})


def _image_named(image: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The image's own column, or the name under which the data set's archives keep it."""
    number = next((v for v in (image.get("image_id"), image.get("id"), entry.get("image_id")) if v is not None), None)
    size = [image.get("width"), image.get("height")]
    known = {"image_size": size} if _numbers(size, 2) else {}
    if image.get("image") is not None:
        return {"image_id": number, "image": image["image"], **known}
    if number is None:
        raise _EntryError("image_id", "is missing, here and beside the list")
    if entry.get("image_id") is not None and str(entry["image_id"]) != str(number):
        raise _EntryError("image_id", f"is {entry['image_id']}, that of the image is {number}")
    return {"image_id": number, "image": f"{number}.jpg", **known}


def _region(entry: Mapping[str, Any]) -> dict[str, Any]:
    box = [entry.get(k) for k in ("x", "y", "width", "height")]
    if not _numbers(box, 4):
        odd = next(k for k, v in zip(("x", "y", "width", "height"), box) if not _number(v) or (v < 0 and k not in "xy"))
        raise _EntryError(odd, "must be a number (width and height not below 0)")
    rest = {k: v for k, v in entry.items() if k not in ("x", "y", "width", "height", "region_id")}
    return {**rest, "id": entry.get("region_id"), "phrase": _text(entry, "phrase"), "box": box}


def _question(entry: Mapping[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in entry.items() if k != "qa_id"}
    return {**rest, "id": entry.get("qa_id"), "question": _text(entry, "question"), "answer": _text(entry, "answer")}


def _with_shared_images(rows: list[RawRow]) -> list[RawRow]:
    """Tables like MMBench's keep an image once; other rows name it by the ``index`` of the row that holds it."""
    asking = [i for i, raw in enumerate(rows) if "index" in raw.values and _is_index(raw.values.get("image"))]
    if not asking:
        return rows
    held = {(raw.file, str(raw.values["index"])): raw.values.get("image") for raw in rows if "index" in raw.values}
    result = list(rows)
    for i in asking:
        raw = rows[i]
        image = held.get((raw.file, str(raw.values["image"])))
        if image is not None and not _is_index(image):
            result[i] = replace(raw, values={**raw.values, "image": image})
    return result


def _is_index(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= _LONGEST_INDEX and value.strip().isdigit())
