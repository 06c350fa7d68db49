"""What frozen vision towers made of images, kept by content: in memory up to a bound, and in files.

A key says all that the tensors hang on (``towers.py`` makes it), so an entry can be missing but never stale.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from keel.models.config import FeaturesConfig
from keel.runs.durable import write_atomic

log = logging.getLogger("keel")
Tensors = Mapping[str, Tensor]
_MB = 2**20


class FeatureStore:
    """Tensors of images by key. They are held on the CPU; on disk there is a file for each key.

    ``hits`` and ``misses`` count questions since the beginning, ``from_disk`` those hits that a file answered, ``held`` the bytes in
    memory.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None) -> None:
        """``max_bytes`` bounds what memory holds; the least recently asked entry goes first. With neither memory nor ``folder`` nothing is
        kept."""
        self.max_bytes, self.folder = max_bytes, folder
        self.hits = self.misses = self.from_disk = self.held = 0
        self._items: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._told = (0, 0)

    @classmethod
    def of(cls, config: FeaturesConfig) -> FeatureStore:
        """The store that settings ask for."""
        return cls(int(config.memory_gib * 2**30), Path(config.folder).expanduser() if config.folder else None)

    @property
    def on(self) -> bool:
        """Is anything ever kept?"""
        return self.max_bytes > 0 or self.folder is not None

    def take(self, key: str) -> Tensors | None:
        """What was kept under ``key``, on the CPU; None, counted as a miss, where it has to be made. A file that is not whole counts as
        missing, and is told."""
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        else:
            found = self._read(key)
            if found is not None:
                self.from_disk += 1
                self._hold(key, found)
        self.hits += found is not None
        self.misses += found is None
        return found

    def keep(self, key: str, tensors: Tensors) -> None:
        """Keep copies of ``tensors`` under ``key``. A folder that cannot be written is told once, and left alone from then on."""
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        self._hold(key, kept)
        if self.folder is None:
            return
        file = self._file(self.folder, key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, save(kept, {"sha256": _checksum(kept)}))
        except OSError as error:
            log.warning("%s cannot be written (%s): features of images are kept in memory alone", file, error.strerror)
            self.folder = None

    def since(self) -> dict[str, float]:
        """Metrics: hits and misses since the last call, MB in memory. Empty as long as no image was asked for."""
        if not self.hits + self.misses:
            return {}
        (hits, misses), self._told = self._told, (self.hits, self.misses)
        now = {"hits": self.hits - hits, "misses": self.misses - misses, "mb": self.held / _MB}
        return {f"vision/features_{name}": float(value) for name, value in now.items()}

    def summary(self) -> dict[str, float]:
        """Hits (those from disk among them), misses, MB in memory, since the process began. Empty as long as no image was asked for."""
        if not self.hits + self.misses:
            return {}
        return {"hits": self.hits, "from_disk": self.from_disk, "misses": self.misses, "mb": round(self.held / _MB, 1)}

    def _hold(self, key: str, tensors: dict[str, Tensor]) -> None:
        size = _bytes(tensors)
        if size > self.max_bytes:
            return
        self.held += size - _bytes(self._items.pop(key, {}))
        self._items[key] = tensors
        while self.held > self.max_bytes:
            self.held -= _bytes(self._items.popitem(last=False)[1])

    def _read(self, key: str) -> dict[str, Tensor] | None:
        if self.folder is None:
            return None
        file = self._file(self.folder, key)
        try:
            data = file.read_bytes()
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            if header["__metadata__"]["sha256"] == _checksum(tensors):
                return tensors
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        log.warning("%s is not whole; the image's features are made again", file)
        return None

    @staticmethod
    def _file(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.safetensors"


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _checksum(tensors: Tensors) -> str:
    state = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        state.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        state.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
