"""What code in the sandbox must not be able to do, tried by code in the sandbox; each under every sandbox that works here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keel.core.errors import UserError
from keel.sandbox import choose
from keel.sandbox.process import Kind, Limits
from keel.sandbox.run import run_script
from keel.sandbox.syscalls import seccomp_filter

LIMITS = Limits(wall_s=10.0, cpu_s=4.0, memory_mb=256)
KINDS: list[Kind] = ["landlock", "bubblewrap"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    held, why = choose.tried(request.param)
    if not held:
        pytest.skip(why)
    return request.param


def attempt(kind: Kind, body: str, limits: Limits = LIMITS) -> str:
    """What the code says of its attempt: "refused" when the system did not let it."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    source = (
        f"import os, sys\ntry:\n{lines}\n    print('done')\nexcept (OSError, MemoryError, RuntimeError) as error:\n    print('refused')\n"
    )
    outcome = run_script(source, "", kind, limits)
    return outcome.stdout.strip() or outcome.ending


FILES = [
    "/etc/passwd",
    "/etc/hostname",
    "/proc/self/environ",
    "/proc/1/environ",
    "/proc/self/maps",
    "/proc/self/mem",
    "/dev/mem",
    "/etc/shadow",
]


@pytest.mark.parametrize("path", [*FILES, __file__, sys.executable + "/../../pyvenv.cfg"])
def test_no_file_can_be_read(kind: Kind, path: str) -> None:
    assert attempt(kind, f"open({path!r}, 'rb').read(10)") == "refused"


@pytest.mark.parametrize("path", ["environ", "mem", "root/etc/passwd", "cwd", "fd/0", "task"])
def test_its_parent_is_not_looked_into(kind: Kind, path: str) -> None:
    for pid in ("{os.getppid()}", str(os.getpid())):
        look = "os.listdir" if path in ("cwd", "task") else "open"
        assert attempt(kind, f"{look}(f'/proc/{pid}/{path}')") == "refused"


def test_links_lead_nowhere(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    tmp_path.chmod(0o777)
    assert attempt(kind, f"print(open({str(tmp_path / 'link')!r}).read())") == "refused"
    for make in ("symlink", "link"):
        for place in (str(tmp_path / "new"), "/tmp/keel-link", "keel-link"):
            assert attempt(kind, f"os.{make}({str(tmp_path / 'secret')!r}, {place!r})\nprint(open({place!r}).read())") == "refused"
    assert not (tmp_path / "new").exists()


def test_installed_packages_cannot_be_read(kind: Kind) -> None:
    """They may hold the data sets that the tests are from."""
    found = attempt(kind, f"open({pytest.__file__!r}).read()")
    assert found == "refused"
    assert attempt(kind, "import pytest") == "it exited with code 1 (ModuleNotFoundError: No module named 'pytest')"


@pytest.mark.parametrize("path", ["/tmp/keel-escape", "/dev/shm/keel-escape", "keel-escape", "/var/tmp/keel-escape"])
def test_no_file_can_be_written(kind: Kind, path: str) -> None:
    assert attempt(kind, f"open({path!r}, 'w').write('x')") == "refused"
    assert not Path(path).exists()


def test_nothing_can_be_removed_renamed_or_listed(kind: Kind, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x", encoding="utf-8")
    victim.chmod(0o666)
    tmp_path.chmod(0o777)
    for body in (
        f"os.remove({str(victim)!r})",
        f"os.rename({str(victim)!r}, '/tmp/x')",
        f"os.chmod({str(victim)!r}, 0)",
        "os.listdir('/home')",
    ):
        assert attempt(kind, body) == "refused"
    assert attempt(kind, f"os.truncate({str(victim)!r}, 0)") == "refused"
    assert victim.read_text(encoding="utf-8") == "x"


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.0)
        yield server


def test_no_network(kind: Kind, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert attempt(kind, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)") == "refused"
    assert attempt(kind, "import socket\nsocket.socket(socket.AF_UNIX)") == "refused"
    assert attempt(kind, "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))") == "refused"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_fork_bomb_is_refused(kind: Kind) -> None:
    assert attempt(kind, "while True:\n    os.fork()") == "refused"
    assert attempt(kind, "import _thread\n_thread.start_new_thread(print, ())") == "refused"
    assert attempt(kind, "import threading\nthreading.Thread(target=os.fork).start()\nos.fork()") == "refused"
    assert attempt(kind, "import subprocess\nsubprocess.run(['/bin/true'])") == "refused"


def test_no_other_program_can_be_started(kind: Kind) -> None:
    assert attempt(kind, "os.execv('/bin/sh', ['sh', '-c', 'echo done'])") == "refused"
    assert attempt(kind, f"os.execv({sys.executable!r}, ['python', '-c', 'print(1)'])") == "refused"


def test_nobody_can_be_killed_or_traced(kind: Kind) -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for pid in ("os.getppid()", "1", "-1", str(victim.pid)):
            assert attempt(kind, f"os.kill({pid}, 9)") == "refused"
        trace = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.ptrace(16, {pid}, 0, 0) < 0: raise OSError('ptrace')"
        assert attempt(kind, trace.format(pid=victim.pid)) == "refused"
        assert attempt(kind, trace.format(pid="os.getppid()")) == "refused"
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.communicate()


@pytest.mark.parametrize("number", [56, 57, 59, 101, 105, 155, 165, 250, 272, 298, 308, 310, 319, 321, 425, 435, 442], ids=str)
def test_system_calls_go_nowhere_by_the_back_door(kind: Kind, number: int) -> None:
    """clone, fork, execve, ptrace, setuid, pivot_root, mount, keyctl, unshare, perf_event_open, setns, process_vm_readv, memfd_create, bpf,
    io_uring_setup, clone3, mount_setattr, on x86_64."""
    if os.uname().machine != "x86_64":
        pytest.skip("numbers of x86_64")
    body = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nif libc.syscall({number}, 0, 0, 0, 0, 0) < 0: raise OSError(ctypes.get_errno(), '')"  # noqa: E501
    assert attempt(kind, body) == "refused"


def test_memory_is_limited(kind: Kind) -> None:
    assert attempt(kind, "x = bytearray(1 << 30)") == "refused"
    assert attempt(kind, "x = []\nwhile True: x.append(bytearray(1 << 20))") == "refused"


def test_an_endless_loop_ends(kind: Kind) -> None:
    assert attempt(kind, "while True: pass", Limits(wall_s=1.0, cpu_s=9.0)) == "the time limit was reached"
    assert attempt(kind, "while True: pass", Limits(wall_s=20.0, cpu_s=1.0)) == "it was ended by SIGKILL"
    assert attempt(kind, "import time\ntime.sleep(60)", Limits(wall_s=1.0)) == "the time limit was reached"


def test_output_is_limited(kind: Kind) -> None:
    outcome = run_script("while True: print('x' * 10000)", "", kind, LIMITS)
    assert outcome.status == "too_much_output"
    assert len(outcome.stdout) <= LIMITS.output_kb << 10


def test_it_outlives_nothing(kind: Kind) -> None:
    """Closing its outputs does not let it run on."""
    outcome = run_script("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)", "", kind, Limits(wall_s=1.0))
    assert outcome.status == "timed_out"


def test_the_environment_is_empty(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEL_SECRET", "s3cret")
    outcome = run_script("import os\nprint(sorted(os.environ), sys.argv if 'sys' in dir() else '')", "", kind, LIMITS)
    assert "SECRET" not in outcome.stdout
    assert "s3cret" not in run_script("import os\nprint(dict(os.environ))", "", kind, LIMITS).stdout


def test_honest_programs_run(kind: Kind) -> None:
    source = "import json, math, collections, heapq, decimal, datetime, asyncio, re, random, itertools\n"
    source += "async def main(): return sum(map(int, input().split()))\nprint(asyncio.run(main()))"
    outcome = run_script(source, "1 2 3\n" * 2, kind, LIMITS)
    assert (outcome.stdout, outcome.status, outcome.code) == ("6\n", "exited", 0), outcome.stderr


def test_much_goes_in_and_out(kind: Kind) -> None:
    given = "x" * 500_000
    assert run_script("import sys\nsys.stdout.write(sys.stdin.read()[::-1])", given + "y", kind, LIMITS).stdout == "y" + given


def test_hashes_are_the_same_every_time(kind: Kind) -> None:
    a, b = (run_script("print(hash('keel'), {'a', 'b', 'c', 'd'})", "", kind, LIMITS).stdout for _ in range(2))
    assert a == b != ""


def test_without_a_sandbox_nothing_runs_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "sandbox", lambda: (None, "no landlock here"))
    with pytest.raises(UserError, match=r"no sandbox works on this machine \(no landlock here\)[\s\S]*unsandboxed=true"):
        choose.require_sandbox(False, "reward 'tests'")
    assert choose.require_sandbox(True, "reward 'tests'") == "none"
    assert run_script("print(1)", "", "none", LIMITS).stdout == "1\n"


def test_a_sandbox_that_leaks_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe finds an open door: here, a filter that allows everything."""
    monkeypatch.setattr("keel.sandbox.process._filter", lambda: "BgAAAAAA/38=")  # one instruction: allow
    held, why = choose.tried("landlock")
    if "landlock: does not hold" not in why and not held:
        pytest.skip(why)
    assert not held
    assert "socket" in why


def test_the_filter_of_the_other_processor_is_well_formed() -> None:
    for machine in ("x86_64", "aarch64"):
        program = seccomp_filter(machine)
        assert len(program) % 8 == 0
        assert program[-8:] == bytes.fromhex("0600000001000500")  # the end refuses
