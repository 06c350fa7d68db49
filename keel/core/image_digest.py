"""Images by their bytes. No numpy: tables of rewards and judges are read where there is none."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path


def image_digest(source: str) -> str:
    """sha256 of an image's bytes; the source itself when they cannot be read (rendering will refuse it, with the reason)."""
    try:
        if source.startswith("data:"):
            return hashlib.sha256(base64.b64decode(source.partition(",")[2], validate=True)).hexdigest()
        path = Path(source).expanduser()
        found = path.stat()
        return _file_digest(str(path), found.st_mtime_ns, found.st_size)
    except (OSError, ValueError):
        return source


@lru_cache(maxsize=65536)
def _file_digest(path: str, _modified: int, _size: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
