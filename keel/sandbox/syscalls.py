"""The system calls that a sandboxed interpreter may make, as a seccomp filter. Everything else is answered with EPERM: no sockets, no new
processes or threads, no exec, no signals to others, no ptrace, no mounts, no change of files' owners or modes."""

from __future__ import annotations

import platform
import struct

# name, number on x86_64, number on aarch64 (- where it has none)
_ALLOWED = """
    access 21 -, alarm 37 -, arch_prctl 158 -, brk 12 214, clock_getres 229 114, clock_gettime 228 113, clock_nanosleep 230 115,
    close 3 57, dup 32 23, dup2 33 -, dup3 292 24, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_pwait 281 22,
    epoll_wait 232 -, eventfd 284 -, eventfd2 290 19, exit 60 93, exit_group 231 94, faccessat 269 48, faccessat2 439 439, fcntl 72
    25, fstat 5 80, fstatfs 138 44, futex 202 98, getcpu 309 168, getcwd 79 17, getdents64 217 61, getegid 108 177, geteuid 107 175,
    getgid 104 176, getgroups 115 158, getitimer 36 102, getpgid 121 155, getpgrp 111 -, getpid 39 172, getppid 110 173, getrandom
    318 278, getrlimit 97 163, getrusage 98 165, getsid 124 156, getsockopt 55 209, gettid 186 178, gettimeofday 96 169, getuid 102
    174, lseek 8 62, lstat 6 -, madvise 28 233, membarrier 324 283, mincore 27 232, mmap 9 222, mprotect 10 226, mremap 25 216,
    munmap 11 215, nanosleep 35 101, newfstatat 262 79, open 2 -, openat 257 56, pause 34 -, pipe 22 -, pipe2 293 59, poll 7 -,
    ppoll 271 73, pread64 17 67, pselect6 270 72, pwrite64 18 68, read 0 63, readlink 89 -, readlinkat 267 78, readv 19 65, recvfrom
    45 207, recvmsg 47 212, restart_syscall 219 128, rseq 334 293, rt_sigaction 13 134, rt_sigpending 127 136, rt_sigprocmask 14
    135, rt_sigreturn 15 139, rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sched_getaffinity 204 123, sched_yield 24 124, select
    23 -, sendmsg 46 211, sendto 44 206, set_robust_list 273 99, set_tid_address 218 96, setitimer 38 103, setsockopt 54 208,
    shutdown 48 210, sigaltstack 131 132, stat 4 -, statfs 137 43, statx 332 291, sysinfo 99 179, time 201 -, times 100 153, umask
    95 166, uname 63 160, write 1 64, writev 20 66
"""
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column of the table
_IOCTL, _SOCKETPAIR, _PRLIMIT = (16, 29), (53, 199), (302, 261)
_IOCTL_COMMANDS = (0x5401, 0x5450, 0x5451, 0x5421, 0x541B)  # TCGETS, FIONCLEX, FIOCLEX, FIONBIO, FIONREAD
_AF_UNIX = 1  # asyncio wakes itself through a pair of sockets
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
_NUMBER, _ARCH, _ARGS = 0, 4, 16  # offsets into struct seccomp_data; arguments are 8 bytes each, low word first
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # SECCOMP_RET_ALLOW, RET_ERRNO with EPERM, RET_KILL_PROCESS
_X32 = 0x40000000  # calls of the x32 ABI carry this bit: other numbers for the same calls


def supported() -> bool:
    """Is there a table for this processor?"""
    return platform.machine() in _ARCHITECTURES


def seccomp_filter(machine: str = "") -> bytes:
    """The filter as ``struct sock_filter`` instructions (8 bytes each) for ``machine`` (this one when empty)."""
    arch, column = _ARCHITECTURES[machine or platform.machine()]
    program = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    for number in _numbers(column):
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    program += _with_argument(_IOCTL[column], 1, _IOCTL_COMMANDS)
    program += _with_argument(_SOCKETPAIR[column], 0, (_AF_UNIX,))
    program += _with_argument(_PRLIMIT[column], 0, (0,))  # of oneself
    program.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _numbers(column: int) -> list[int]:
    rows = [row.split() for row in _ALLOWED.replace("\n", " ").split(",")]
    return sorted(int(row[1 + column]) for row in rows if row[1 + column] != "-")


def _with_argument(number: int, argument: int, values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Allow call ``number`` when the low word of an argument is one of ``values``; the number stays loaded for what follows."""
    inside = [(_LOAD, 0, 0, _ARGS + 8 * argument)]
    for value in values:
        inside += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    inside.append((_RETURN, 0, 0, _REFUSE))
    return [(_EQUAL, 0, len(inside), number), *inside]
