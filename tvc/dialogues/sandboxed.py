"""Runs in a process of its own: shuts itself in, then answers questions, one JSON object a line.

What it shuts itself in with, each where the system has it: of the kernel's calls those that open
sockets, start processes or programs, and reach into other processes are refused (seccomp; Linux on
x86-64 and arm64); no file but Python's own library can be read, none written, removed or run
(Landlock; Linux from 5.13); memory, open files, sizes of files and processor time are bounded; it
ends with the process that started it. What is in force is said in the first answer. Elsewhere than
on Linux only the bounds hold: foreign code can read files and reach the network there. Threads are
processes here, and refused too. Time by the clock is the other side's to bound
(tvc/dialogues/sandbox.py).

Started by path with `python -I -S`, so it imports the standard library only.
"""

import contextlib
import ctypes
import json
import os
import re
import resource
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["serve"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SIGKILL: Final = 9
# Machine → its number in seccomp, and its calls: socket, socketpair, clone, fork, vfork, clone3,
# execve, execveat, kill, tkill, tgkill, pidfd_send_signal, ptrace, process_vm_writev,
# process_vm_readv, pidfd_getfd, io_uring_setup, unshare, setns, bpf, keyctl, add_key.
# fmt: off
_REFUSED: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    "x86_64": (0xC000003E, (
        41, 53, 56, 57, 58, 435, 59, 322, 62, 200, 234, 424, 101, 311, 310, 438, 425, 272, 308,
        321, 250, 248,
    )),
    "aarch64": (0xC00000B7, (  # which has neither fork nor vfork
        198, 199, 220, 435, 221, 281, 129, 130, 131, 424, 117, 271, 270, 438, 425, 97, 268, 280,
        219, 217,
    )),
}
# fmt: on
_OTHER_ABI: Final = 0x40000000  # x32's calls on x86-64, which have numbers of their own
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_KILL, _EPERM, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ: Final = 0b1100  # LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}  # bits that each version of Landlock knows
_MAX_SAID: Final = 300


def serve(prepare: Callable[[Mapping[str, Any]], Callable[[Any], Any]]) -> None:
    """Answer questions from standard input until it ends.

    Args:
        prepare: Given the first line's object, returns what answers the others. It runs shut in,
            at the second line.
    """
    questions = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # What the code that is run prints, or reads, must not mix with the answers.
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    setup = json.loads(questions.readline())
    contained = _shut_in(setup["memory"])
    seconds = setup["seconds"]
    answer: Callable[[Any], Any] | None = None

    def start() -> bool:
        nonlocal answer
        answer = prepare(setup)
        return True

    def attempt(number: int, work: Callable[[], Any]) -> None:
        _allow_seconds(seconds)
        try:
            said = {"number": number, "value": work()}
        except MemoryError:
            said = {"number": number, "failed": "it needs more memory than it is given"}
        except BaseException as error:  # noqa: BLE001 -- whatever foreign code raises is its answer
            said = {"number": number, "failed": f"{type(error).__name__}: {error}"[:_MAX_SAID]}
        answers.write(json.dumps(said).encode() + b"\n")
        answers.flush()

    # Said before any foreign code runs, which could say so itself.
    attempt(0, lambda: contained)
    for number, line in enumerate(questions, 1):
        if number == 1:
            attempt(number, start)
            continue
        question = json.loads(line)
        assert answer is not None, "nobody asks what could not be prepared"
        attempt(number, lambda question=question: answer(question))


def _shut_in(memory: int) -> dict[str, bool]:
    """Give up what foreign code has no need of; return what of it worked."""
    libc = ctypes.CDLL(None, use_errno=True)
    files = calls = False
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        files = _landlock(libc)
        calls = _seccomp(libc)
    return {"network": calls, "files": files, "processes": calls}


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Have the kernel refuse the calls of `_REFUSED`."""
    machine, calls = _REFUSED.get(os.uname().machine, (0, ()))
    if not calls:
        return False
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, machine), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    steps += [(_AT_LEAST, 0, 1, _OTHER_ABI), (_RETURN, 0, 0, _KILL)]
    for call in calls:
        steps += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _EPERM)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(program, len(program))
    whole = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(kept))
    return libc.prctl(_PR_SET_SECCOMP, 2, whole, 0, 0) == 0


def _landlock(libc: ctypes.CDLL) -> bool:
    """Allow reading Python's library, and no other use of the file system."""
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    connections, scope = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(
        _CREATE_RULESET, struct.pack("QQQ", rights, connections, scope), ctypes.c_size_t(size), 0
    )
    if rules < 0:
        return False
    for path in {os.path.dirname(os.__file__), *sys.path}:  # noqa: PTH120 -- as above
        with contextlib.suppress(OSError):
            below = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            libc.syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", _READ, below), 0)
            os.close(below)
    done = libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return done


def _allow_seconds(seconds: float) -> None:
    """Bound the processor time from here on, should the other side's clock not end it."""
    spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 2, resource.RLIM_INFINITY))


def _prepare(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    return _regular_expression(setup) if "pattern" in setup else _function(setup)


def _regular_expression(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    pattern = re.compile(setup["pattern"])
    return lambda question: pattern.search(question["response"]) is not None


def _function(setup: Mapping[str, Any]) -> Callable[[Any], Any]:
    names: dict[str, Any] = {"__name__": "verifier", "__file__": setup["file"]}
    exec(compile(setup["code"], setup["file"], "exec"), names)  # noqa: S102 -- what this is for
    called = names.get(setup["function"])
    if not callable(called):
        raise TypeError(f"there is no function {setup['function']}")

    def verify(question: Any) -> bool:
        found = called(question["prompt"], question["response"])
        if not isinstance(found, bool):
            raise TypeError(f"{setup['function']} returned {found!r:.40}, not True or False")
        return found

    return verify


if __name__ == "__main__":
    serve(_prepare)
