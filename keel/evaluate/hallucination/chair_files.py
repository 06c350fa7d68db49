"""What CHAIR reads: captions (rows, or the format of the published script) and what is there (rows, or COCO's files)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keel.core.errors import DataError
from keel.data.rows import RawRow
from keel.evaluate.hallucination.config import HallucinationConfig
from keel.evaluate.hallucination.files import SHOWN, by_id, id_of, read_object, read_rows, read_value, text_of, texts_of
from keel.rewards.reading.lexicon import Lexicon, Mention
from keel.rewards.reading.thoughts import answer_of

_TEXTS = ("caption", "answer", "response", "completion", "text")
_IMAGES = ("image_id", "image", "id")


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption of one image; several of an image have names of their own."""

    name: str
    image: str
    text: str
    place: str


@dataclass(frozen=True, slots=True)
class Truth:
    """What is there by a row: names of objects, and captions of people."""

    objects: tuple[str, ...]
    captions: tuple[str, ...]
    place: str


def read_captions(path: str, original: bool) -> tuple[list[Caption], dict[str, list[Truth]]]:
    """Captions, and by image what their own rows say is there (``objects``, ``references``). Several captions of one image need an ``id``
    each, unless ``original``, and what a model thinks aloud is no caption. Raises DataError."""
    rows = list(_rows(path))
    captions: list[Caption] = []
    truth: dict[str, list[Truth]] = {}
    seen: dict[str, str] = {}
    for row in rows:
        image = id_of(row, _IMAGES)
        name = id_of(row, ("id", *_IMAGES))
        if name in seen and not original:
            raise DataError(f"{row.place}: the id {name} stands at {seen[name]} already", "give captions of the same image an id each")
        seen[name] = row.place
        text = text_of(row, _TEXTS)
        captions.append(Caption(name, image, text if original else answer_of(text) or "", row.place))
        if row.values.get("objects") is not None or row.values.get("references") is not None:
            truth.setdefault(image, []).append(Truth(texts_of(row, "objects"), texts_of(row, "references"), row.place))
    if not captions:
        raise DataError(f"{path}: no caption", "one object a line: {image_id, caption}")
    return captions, truth


def _rows(path: str) -> Iterator[RawRow]:
    """Rows of a file, or the entries of the published script's ``imgToEval``."""
    if path.endswith(".json"):
        data = read_value(path)
        if isinstance(data, dict) and isinstance(data.get("imgToEval"), dict):
            for number, (key, values) in enumerate(data["imgToEval"].items(), start=1):
                if not isinstance(values, dict):
                    raise DataError(f"{path}: imgToEval.{key}: must be an object with image_id and caption", "mend this entry")
                yield RawRow({"image_id": key, **values}, f"{path}: imgToEval", number)
            return
    yield from read_rows(path)


def read_truth(
    config: HallucinationConfig,
    captions: Sequence[Caption],
    own: Mapping[str, Sequence[Truth]],
    lexicon: Lexicon,
    find: Callable[[str], tuple[Mention, ...]],
) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Objects that are there by image, and the images that were to be described. Raises DataError for captions of images that no file
    knows, and for objects that are not in the list."""
    images = {c.image for c in captions}
    there: dict[str, set[str]] = {image: set() for image in own}
    asked = list(own)
    rows = {image: list(found) for image, found in own.items()}
    if config.truth:
        for image, row in by_id(read_rows(config.truth), _IMAGES).items():
            rows.setdefault(image, []).append(
                Truth(texts_of(row, "objects"), (*texts_of(row, "references"), *texts_of(row, "captions")), row.place)
            )
            there.setdefault(image, set())
            asked.append(image)
    for image, truths in rows.items():
        for truth in truths:
            there[image] |= {_node(name, lexicon, truth.place) for name in truth.objects}
            there[image] |= {m.node for text in truth.captions for m in find(text)}
    known = [_instances(path, images, there, lexicon) for path in config.instances]
    known += [_references(path, images, there, find) for path in config.references]
    for of_file in known:
        for image in of_file & images:
            there.setdefault(image, set())
    unknown = [c for c in captions if c.image not in there]
    if unknown:
        names = ", ".join(c.image for c in unknown[:SHOWN])
        raise DataError(
            f"{unknown[0].place}: {len(unknown)} captions are of images that the truth does not know: {names}",
            "give truth=FILE, instances=[FILE] and references=[FILE], or write objects into each row",
        )
    return {image: frozenset(objects) for image, objects in there.items()}, list(dict.fromkeys([*asked, *(c.image for c in captions)]))


def _node(name: str, lexicon: Lexicon, place: str) -> str:
    if name not in lexicon.node_of:
        raise DataError(
            f"{place}: objects: {name!r} is no name in the list of objects", "add it to the file of objects, or use one of its names"
        )
    return lexicon.node_of[name]


def _instances(path: str, images: set[str], there: dict[str, set[str]], lexicon: Lexicon) -> set[str]:
    """Adds what COCO's instances say; returns the images that the file knows."""
    data = read_object(path)
    names = dict(_pairs(data, "categories", "id", "name", path))
    for number, (image, category) in enumerate(_pairs(data, "annotations", "image_id", "category_id", path), start=1):
        if str(image) in images:
            name = names.get(category)
            if name is None:
                raise DataError(f"{path}: annotations: entry {number}: category_id {category} is not in categories", "mend the file")
            there.setdefault(str(image), set()).add(_node(name, lexicon, f"{path}: annotations: entry {number}"))
    return _images(data)


def _references(path: str, images: set[str], there: dict[str, set[str]], find: Callable[[str], tuple[Mention, ...]]) -> set[str]:
    """Adds what COCO's reference captions name; returns the images that the file knows."""
    data = read_object(path)
    for image, caption in _pairs(data, "annotations", "image_id", "caption", path):
        if str(image) in images:
            there.setdefault(str(image), set()).update(m.node for m in find(str(caption)))
    return _images(data)


def _images(data: Mapping[str, Any]) -> set[str]:
    return {str(image["id"]) for image in data.get("images") or [] if isinstance(image, dict) and "id" in image}


def _pairs(data: Mapping[str, Any], key: str, one: str, two: str, path: str) -> Iterator[tuple[Any, Any]]:
    """Two fields of each entry of a list of a COCO file. Raises DataError for what is not there."""
    value = data.get(key)
    if not isinstance(value, list):
        raise DataError(f"{path}: no list {key}", "give a file of COCO's format: images, annotations, categories")
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, dict) or one not in entry or two not in entry:
            raise DataError(f"{path}: {key}: entry {number} has no {one} or no {two}", "give a file of COCO's format")
        yield entry[one], entry[two]
