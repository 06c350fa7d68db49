"""A disk whose power can fail: operations are recorded while they are done, and played back into what a crash may leave.

The model: a file's content is safe once the file was synced, a name once its folder was. What was not synced may be there, half there or
gone, each thing by itself: names in any combination, contents whole, cut or empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from keel.runs.durable import Disk

MOST_COMBINATIONS = 64
State = frozenset[tuple[str, bytes | None]]  # paths with their content, None: a folder


@dataclass(frozen=True)
class Op:
    kind: str
    path: Path
    target: Path | None = None
    content: bytes = b""


class RecordingDisk(Disk):
    """Does what the real disk does and writes it down."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def make_dir(self, path: Path) -> None:
        super().make_dir(path)
        self.ops.append(Op("mkdir", path))

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self.ops.append(Op("write", path, content=data))

    def copy(self, source: Path, target: Path, size: int) -> None:
        super().copy(source, target, size)
        self.ops.append(Op("write", target, content=target.read_bytes()))

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        super().write_tensors(path, tensors, metadata)
        self.ops.append(Op("write", path, content=path.read_bytes()))

    def sync_file(self, path: Path) -> None:
        super().sync_file(path)
        self.ops.append(Op("sync_file", path))

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self.ops.append(Op("sync_dir", path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.ops.append(Op("rename", source, target))

    def remove(self, path: Path) -> None:
        existed = path.exists()
        super().remove(path)
        if existed:
            self.ops.append(Op("remove", path))


class Inode:
    """A file or folder, apart from its name."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content  # None: a folder
        self.synced = b""
        self.names: dict[str, Inode] = {}  # as the running system sees it
        self.safe: dict[str, Inode] = {}  # as it is on the disk
        self.pending: list[tuple[str, ...]] = []  # changes of names not yet on the disk, in order
        self.moved: dict[tuple[str, ...], Inode] = {}


class PowerDisk:
    """The state of a disk after some operations: what is certain, and what may have been lost."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, Inode(None)

    def _find(self, path: Path) -> Inode:
        node = self.top
        for part in path.relative_to(self.root).parts:
            node = node.names[part]
        return node

    def apply(self, op: Op) -> None:
        if op.kind in ("sync_file", "sync_dir"):
            try:
                node = self._find(op.path)
            except (KeyError, ValueError):  # outside of what is played back
                return
            if op.kind == "sync_file":
                node.synced = node.content or b""
            else:
                node.safe, node.pending, node.moved = dict(node.names), [], {}
            return
        parent, name = self._find(op.path.parent), op.path.name
        if op.kind in ("mkdir", "write"):
            self._link(parent, name, Inode(None if op.kind == "mkdir" else op.content))
        elif op.kind == "remove":
            del parent.names[name]
            parent.pending.append(("unlink", name))
        elif op.kind == "rename":
            assert op.target is not None
            assert op.target.parent == op.path.parent, "renames stay in their folder"
            node = parent.names.pop(name)
            parent.names[op.target.name] = node
            change = ("rename", name, op.target.name, str(len(parent.pending)))
            parent.pending.append(change)
            parent.moved[change] = node

    def _link(self, parent: Inode, name: str, node: Inode) -> None:
        parent.names[name] = node
        change = ("link", name, str(len(parent.pending)))
        parent.pending.append(change)
        parent.moved[change] = node

    def crashes(self) -> Iterator[State]:
        """The states (many of all, each once) that the power cut may leave."""
        pending = [(node, change) for node in self._folders(self.top) for change in node.pending]
        choices = itertools.product((True, False), repeat=len(pending))
        if 2 ** len(pending) > MOST_COMBINATIONS:  # all kept, none kept, each one lost or kept alone, each prefix
            n = len(pending)
            alone = [tuple(j == i for j in range(n)) for i in range(n)] + [tuple(j != i for j in range(n)) for i in range(n)]
            choices = iter([*alone, *(tuple(j < i for j in range(n)) for i in range(n + 1))])
        seen: set[State] = set()
        for choice, data in itertools.product(list(choices), ("whole", "half", "none")):
            state = frozenset(self._state(self.top, "", {id(c): k for (_, c), k in zip(pending, choice)}, data))
            if state not in seen:
                seen.add(state)
                yield state

    def _folders(self, node: Inode) -> Iterator[Inode]:
        seen = {id(n): n for n in [*node.names.values(), *node.safe.values(), *node.moved.values()]}
        yield node
        for child in seen.values():
            if child.content is None:
                yield from self._folders(child)

    def _state(self, node: Inode, path: str, kept: Mapping[int, bool], data: str) -> Iterator[tuple[str, bytes | None]]:
        names = dict(node.safe)
        for change in node.pending:
            if not kept[id(change)]:
                continue
            if change[0] == "link":
                names[change[1]] = node.moved[change]
            elif change[0] == "unlink":
                names.pop(change[1], None)
            else:
                names.pop(change[1], None)
                names[change[2]] = node.moved[change]
        for name, child in names.items():
            if child.content is None:
                yield f"{path}{name}", None
                yield from self._state(child, f"{path}{name}/", kept, data)
            elif child.synced == child.content or data == "whole":
                yield f"{path}{name}", child.content
            else:
                yield f"{path}{name}", child.content[: len(child.content) // 2] if data == "half" else child.synced


def write_out(state: State, folder: Path) -> Path:
    """The state as real files."""
    folder.mkdir(parents=True)
    for path, content in sorted(state):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
    return folder
