"""Becomes another program of Python, which ends when the process ends that started it, however that ends: ``tied PID ARGUMENT...``."""

from __future__ import annotations

import os
import sys

from keel.sandbox.frames import die_with_parent

if __name__ == "__main__":
    die_with_parent()  # holds over exec
    if os.getppid() == int(sys.argv[1]):  # it may have ended before
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
