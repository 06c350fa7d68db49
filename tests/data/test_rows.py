from __future__ import annotations

from keel.data.rows import without_pictures


def test_pictures_are_told_by_their_size():
    long = "A" * 5000
    row = {"image": long, "images": [long, "a.png", {"bytes": b"123", "path": "b.png"}], "text": long, "n": 3, "x": None}
    assert without_pictures(row) == {
        "image": "(5000 characters)",
        "images": ["(5000 characters)", "a.png", {"bytes": "(3 bytes)", "path": "b.png"}],
        "text": long,
        "n": 3,
        "x": None,
    }
    assert without_pictures("text that could not be read") == "text that could not be read"
