"""Short fingerprints of what a run is made from: files, folders of weights, tensors. They tell that something is another one than before,
not that an adversary changed it: size and CRC-32, fast enough for every start of a run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from keel.core.hashing import digest_bytes

_CHUNK = 1 << 22
_MODEL_FILES = frozenset({".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja", ".py"})


def file_fingerprint(path: Path) -> str:
    """Size and CRC-32 of a file's content. Raises OSError."""
    crc = size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return f"{size}:{crc:08x}"


ENSEMBLE_FILE = "keel_ensemble.json"  # in a folder of several reward models: its members are in folders below


def model_fingerprint(path: Path) -> str:
    """The fingerprint of a file of weights, or of those files of a folder that make a model: weights, configs, tokenizer, template."""
    if path.is_file():
        return file_fingerprint(path)
    below = path.rglob("*") if (path / ENSEMBLE_FILE).is_file() else path.iterdir()
    files = sorted(p for p in below if p.suffix in _MODEL_FILES and p.is_file())
    return digest_bytes("\n".join(f"{p.relative_to(path).as_posix()} {file_fingerprint(p)}" for p in files).encode())


def tensors_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, types, shapes and CRC-32 of tensors; any device, in the given order."""
    items = list(named)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        sums = list(pool.map(_checksum, [tensor for _, tensor in items]))
    rows = (f"{name} {tensor.dtype} {tuple(tensor.shape)} {crc:08x}" for (name, tensor), crc in zip(items, sums, strict=True))
    return digest_bytes("\n".join(rows).encode())


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
