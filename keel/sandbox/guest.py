"""What runs inside the sandbox. It is handed to a bare interpreter as text (``python -c``), so it imports the standard library alone.

It locks itself in first (limits, identity, namespaces, landlock, capabilities, seccomp: in this order, each needs what the next one takes
away), says over its channel which of these hold, and only then is sent the code to run. The channel is two file descriptors with frames:
4 bytes of length, then JSON.
"""

import base64
import builtins
import ctypes
import io
import json
import os
import resource
import struct
import sys
from typing import Any

from keel.sandbox.values import decode, encode  # inside the sandbox that file's text stands above this one's

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 38, 22
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446  # the same on every architecture
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS = 0x10000000, 0x40000000, 0x08000000, 0x04000000
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by ABI version: what landlock can forbid


def call(number, *arguments):
    """A system call by number; raises OSError."""
    result = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def prctl(option, value, extra=0):
    if LIBC.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(extra), 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def limit(setup):
    """Address space, processor time, no files, no core, few descriptors; no child processes where the identity lets that hold."""
    for name, value in setup["limits"].items():
        kind = getattr(resource, "RLIMIT_" + name)
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def give_up_identity(setup):
    """Become nobody, where one was root and nobody can read the interpreter's library."""
    if setup["uid"] is not None:
        os.setgroups([])
        os.setresgid(setup["uid"], setup["uid"], setup["uid"])
        os.setresuid(setup["uid"], setup["uid"], setup["uid"])
    prctl(PR_SET_PDEATHSIG, 9)  # a change of identity clears it
    if setup["parent"] and os.getppid() != setup["parent"]:
        os._exit(1)  # the parent died before that


def new_namespaces():
    """A network, IPC and host name of its own, where the kernel lets a user have that."""
    try:
        uid, gid = os.getuid(), os.getgid()
        if LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS):
            return False
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        return True
    except OSError:
        return True  # the namespaces stand; only the names of users are not mapped


def landlock(setup):
    """Nothing of the file system can be used, but what is listed can be read. Returns the ABI version; raises OSError without landlock."""
    abi = call(LANDLOCK_CREATE_RULESET, None, 0, 1)
    handled = FILE_RIGHTS[max(v for v in FILE_RIGHTS if v <= abi)]
    net, scope = (3 if abi >= 4 else 0), (3 if abi >= 6 else 0)  # TCP bind and connect; abstract sockets and signals
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    attributes = struct.pack("=QQQ", handled, net, scope)[:size]
    ruleset = call(LANDLOCK_CREATE_RULESET, ctypes.c_char_p(attributes), size, 0)
    for path, rights in setup["readable"]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = {"file": READ_FILE, "names": READ_DIR, "tree": READ_FILE | READ_DIR}[rights]
        call(LANDLOCK_ADD_RULE, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", allowed, fd)), 0)
        os.close(fd)
    call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return abi


def drop_capabilities():
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    if LIBC.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))):
        raise OSError(ctypes.get_errno(), "capset")


def seccomp(filter_bytes):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    program = Program(len(filter_bytes) // 8, filter_bytes)
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


def lock_in(setup):
    """Returns the fences that hold. Raises OSError when one that must hold does not."""
    fences = []
    if setup["sandbox"] == "none":
        prctl(PR_SET_PDEATHSIG, 9)
        limit(setup)
        return fences
    give_up_identity(setup)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if setup["sandbox"] == "landlock" and new_namespaces():
        fences.append("namespaces")
    try:
        fences.append(f"landlock {landlock(setup)}")
    except OSError:
        if setup["sandbox"] == "landlock":
            raise
    if setup["sandbox"] == "bubblewrap":
        fences.append("bubblewrap")
    drop_capabilities()
    limit(setup)
    seccomp(base64.b64decode(setup["filter"]))
    return [*fences, "seccomp", "limits"]


class Channel:
    def __init__(self, read_fd, write_fd):
        self.read_fd, self.write_fd = read_fd, write_fd

    def receive(self):
        (length,) = struct.unpack(">I", self._exactly(4))
        return json.loads(self._exactly(length))

    def _exactly(self, n):
        data = b""
        while len(data) < n:
            part = os.read(self.read_fd, n - len(data))
            if not part:
                os._exit(0)
            data += part
        return data

    def send(self, message):
        body = json.dumps(message).encode()
        data = struct.pack(">I", len(body)) + body
        while data:
            data = data[os.write(self.write_fd, data) :]

    def close(self):
        os.close(self.read_fd)
        os.close(self.write_fd)


def leave(code=None):
    """``exit`` and ``quit``, which the module ``site`` would bring: programs end with them. What a program wrote until then is judged."""
    raise SystemExit(code)


def threads_at_once():
    """No thread can be made in here: one that is started runs to its end at once, on this one. That is what programs want that start a
    single thread for its larger stack. What it raises is written to standard error, and ends it alone."""
    import threading
    import traceback

    def start(self):
        try:
            self.run()
        except SystemExit:
            pass
        except BaseException:
            traceback.print_exc()

    threading.Thread.start = start
    threading.Thread.join = lambda self, timeout=None: None
    threading.Thread.is_alive = lambda self: False


def methods_of_solution(scope):
    """The methods of a class ``Solution`` as functions, each call on a new object, where the code defines no function of that name."""
    solution = scope.get("Solution")

    def function(name):
        return lambda *args, **kwargs: getattr(solution(), name)(*args, **kwargs)

    for name in [n for n in dir(solution) if not n.startswith("_")] if isinstance(solution, type) else []:
        scope.setdefault(name, function(name))


# --- the three kinds of work --------------------------------------------------------------------------------------------------------


def run_script(channel, message):
    """The code as a program: standard input and output are the caller's pipes, the channel is closed before it starts."""
    channel.close()
    scope = {"__name__": "__main__", "__builtins__": builtins}
    sys.argv = ["answer.py"]
    exec(compile(message["source"], "answer.py", "exec"), scope)


def serve_functions(channel, message):
    """The code as a library: its functions are called by those who hold the other end, who see values alone."""
    quiet()
    scope = {"__name__": "answer", "__builtins__": builtins}
    objects = []

    def refer(value):
        objects.append(value)
        return {"o": [len(objects) - 1, type(value).__name__]}

    def resolve(body):
        return objects[body[0]]

    try:
        exec(compile(message["source"], "answer.py", "exec"), scope)
        methods_of_solution(scope)
    except BaseException as error:
        channel.send({"raised": type(error).__name__, "text": str(error)[:300]})
        return
    channel.send({"names": [n for n, v in scope.items() if callable(v) and not n.startswith("__")]})
    while True:
        request = channel.receive()
        try:
            args = [decode(a, resolve) for a in request["args"]]
            kwargs = {k: decode(v, resolve) for k, v in request["kwargs"].items()}
            before = [encode(a, refer) if isinstance(a, (list, dict, set)) else None for a in args]
            target = resolve(request["object"]) if request["object"] is not None else None
            function = getattr(target, request["name"]) if target is not None else scope[request["name"]]
            value = function(*args, **kwargs) if request["call"] else function
            after = [encode(a, refer) if isinstance(a, (list, dict, set)) else None for a in args]
            changed = [[i, new] for i, (old, new) in enumerate(zip(before, after)) if new != old]
            reply = {"value": encode(value, refer), "changed": changed}
        except BaseException as error:
            reply = {"raised": type(error).__name__, "text": str(error)[:300]}
        channel.send(reply)


class Nowhere(io.TextIOBase):
    def write(self, text):
        return len(text)


def quiet():
    """What the code prints goes nowhere: it has no part in the verdict."""
    sys.stdout = sys.stderr = Nowhere()


class OpaqueError(Exception):
    """A value that can cross neither way."""


class RaisedError(Exception):
    """The code under test raised."""


KNOWN = {  # what tests may expect by type
    name: getattr(builtins, name)
    for name in [
        "ArithmeticError",
        "AttributeError",
        "IndexError",
        "KeyError",
        "LookupError",
        "NotImplementedError",
        "OverflowError",
        "RecursionError",
        "RuntimeError",
        "StopIteration",
        "TypeError",
        "ValueError",
        "ZeroDivisionError",
    ]
}


def remote_functions(channel):
    """Makes stand-ins for the other side's functions by name. Objects that they return are stand-ins too, and equal to themselves alone:
    what strangers' objects say of equality decides nothing."""

    def ask(name, args=(), kwargs=None, target=None, called=True) -> Any:
        if any(callable(a) and not isinstance(a, Remote) for a in (*args, *(kwargs or {}).values())):
            raise OpaqueError("the tests hand over a function, which cannot enter the sandbox")
        request = {
            "object": target,
            "name": name,
            "call": called,
            "args": [encode(a, refer) for a in args],
            "kwargs": {k: encode(v, refer) for k, v in (kwargs or {}).items()},
        }
        channel.send({"ask": request})
        reply = channel.receive()
        if "raised" in reply:
            text = f"{reply['raised']}: {reply['text']}"
            raise KNOWN.get(reply["raised"], RaisedError)(text)
        for i, new in reply["changed"]:
            refill(args[i], decode(new, Remote))
        return decode(reply["value"], Remote)

    def refer(value):
        if isinstance(value, Remote):
            return {"o": object.__getattribute__(value, "body")}
        raise OpaqueError(f"the tests hand over a {type(value).__name__}, which cannot enter the sandbox")

    class Remote:
        def __init__(self, body):
            self.body = body

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return ask(name, target=self.body, called=False)

        def __call__(self, *args, **kwargs):
            return ask("__call__", args, kwargs, self.body)

        def __eq__(self, other):
            return isinstance(other, Remote) and other.body == self.body

        def __hash__(self):
            return self.body[0]

        def __len__(self):
            return ask("__len__", target=self.body)

        def __getitem__(self, key):
            return ask("__getitem__", (key,), target=self.body)

        def __iter__(self):
            yield from ask("__iter__", target=self.body)

        def __contains__(self, item):
            return bool(ask("__contains__", (item,), target=self.body))

        def __str__(self):
            return str(ask("__str__", target=self.body))

        def __repr__(self):
            return str(ask("__repr__", target=self.body))

    return lambda name: lambda *args, **kwargs: ask(name, args, kwargs)


def refill(target, value):
    """What the code did to an argument in place."""
    if isinstance(target, list):
        target[:] = value
    else:
        target.clear()
        target.update(value)


def run_tests(channel, message):
    """Tests of functions on the other side. Each test is one piece of code; says before each that it begins, and after each how it went."""
    quiet()
    function = remote_functions(channel)
    scope = {"__name__": "tests", "__builtins__": builtins}
    try:
        exec(compile(message["setup"], "setup", "exec"), scope)
        scope.update({name: function(name) for name in message["names"]})
        tests = [compile(test, "tests", "exec") for test in message["tests"]]
    except BaseException as error:
        channel.send({"broken": f"{type(error).__name__}: {error}"[:300]})
        return
    for i, test in enumerate(tests):
        channel.send({"begin": i})
        try:
            exec(test, scope)
            channel.send({"end": i, "passed": True})
        except OpaqueError as error:
            channel.send({"broken": str(error)})
            return
        except BaseException as error:
            name = "" if isinstance(error, RaisedError) else f"{type(error).__name__}: "
            channel.send({"end": i, "passed": False, "why": f"{name}{error}"[:300]})
    channel.send({"done": True})


def main():
    setup = json.loads(sys.argv[1])
    channel = Channel(*setup["channel"])
    try:
        fences = lock_in(setup)
    except (OSError, ValueError) as error:
        channel.send({"unsafe": f"{type(error).__name__}: {error}"})
        return
    channel.send({"fences": fences})
    message = channel.receive()
    sys.setrecursionlimit(5000)
    builtins.exit = builtins.quit = leave
    if "thread" in message.get("source", "").lower():
        threads_at_once()
    {"script": run_script, "functions": serve_functions, "tests": run_tests}[message["work"]](channel, message)


if __name__ == "__main__":
    main()
