"""Jobs on forked processes: dependencies in, one stream of results out, JSON on the pipes and no pickle.

A child inherits the parent's memory (data, plans, models), gets job names through a pipe and answers with JSON lines.
A child that dies takes one job with it, which the error names; a parent that dies takes its children with it.
With one worker everything runs in this process, in the same order.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from mithridate.core.errors import Misuse, MithridateError, WorkError

Tell = Callable[[Mapping[str, Any]], None]
"""What a job may call to report progress: a JSON object."""
Execute = Callable[[str, Tell], Mapping[str, Any]]
"""Runs the job of a name and returns its result, a JSON object."""
Hear = Callable[[str, Mapping[str, Any]], None]
"""Is given each word of progress as it arrives, with the name of the job."""


def silent(word: Mapping[str, Any]) -> None:
    """Progress that nobody follows: a `Tell` that does nothing."""
    del word


def deaf(job: str, word: Mapping[str, Any]) -> None:
    """A `Hear` that does nothing."""
    del job, word


@dataclass(frozen=True)
class Job:
    """A unit of work: its name, and the names of the jobs that must be finished before."""

    name: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A finished job and its result."""

    name: str
    result: dict[str, Any]


@dataclass
class _Child:
    pid: int
    to: int
    back: int
    job: str | None = None
    unread: bytes = b""


@dataclass
class _Queue:
    """The jobs not yet begun, in the given order, and what is finished."""

    waiting: list[Job]
    finished: set[str] = field(default_factory=set)

    def pop(self) -> str | None:
        for place, job in enumerate(self.waiting):
            if self.finished.issuperset(job.needs):
                del self.waiting[place]
                return job.name
        return None


def run_jobs(
    jobs: Sequence[Job],
    execute: Execute,
    *,
    workers: int,
    setup: Callable[[], None],
    finished: Sequence[str] = (),
    heard: Hear = deaf,
) -> Iterator[Done]:
    """Run every job once, dependencies first, and yield results as they come.

    Args:
        jobs: What to run; earlier jobs are begun first when they are ready.
        execute: Runs one job; called in a child process, or here if `workers` is 1.
        workers: Number of processes.
        setup: Called once in each child before its first job.
        finished: Names of jobs that are done already and count as met dependencies.
        heard: Called in this process with what a running job tells, while it runs.

    Raises:
        MithridateError: The error that a job raised. Results that were yielded stay valid.
        WorkError: A child died, or a job failed in an unforeseen way.
    """
    queue = _Queue(list(jobs), set(finished))
    if workers == 1 or len(jobs) <= 1:
        setup()
        yield from _here(queue, execute, heard)
        return
    children = [_spawn(execute, setup) for _ in range(min(workers, len(jobs)))]
    try:
        yield from _schedule(queue, children, heard)
    finally:
        for child in children:
            _end(child)


def _here(queue: _Queue, execute: Execute, heard: Hear) -> Iterator[Done]:
    while (name := queue.pop()) is not None:
        result = execute(name, partial(heard, name))
        queue.finished.add(name)
        yield Done(name, dict(result))
    _nothing_left(queue)


def _schedule(queue: _Queue, children: list[_Child], heard: Hear) -> Iterator[Done]:
    selector = selectors.DefaultSelector()
    for child in children:
        selector.register(child.back, selectors.EVENT_READ, child)
    _feed(queue, children)
    while any(child.job for child in children):
        for key, _ in selector.select(timeout=60):
            ready: _Child = key.data
            for line in _lines(ready):
                message = json.loads(line)
                assert ready.job is not None
                if "word" in message:
                    heard(ready.job, message["word"])
                elif "result" in message:
                    name, ready.job = ready.job, None
                    queue.finished.add(name)
                    yield Done(name, message["result"])
                else:
                    _raise(ready.job, message)
        _feed(queue, children)
    _nothing_left(queue)


def _feed(queue: _Queue, children: list[_Child]) -> None:
    for child in children:
        if child.job is None and (name := queue.pop()) is not None:
            child.job = name
            os.write(child.to, (json.dumps(name) + "\n").encode())


def _nothing_left(queue: _Queue) -> None:
    if queue.waiting:
        stuck = queue.waiting[0]
        missing = sorted(set(stuck.needs) - queue.finished)
        raise Misuse("MTH-0005", f"job {stuck.name} waits for {missing}, which nothing produces")


def _lines(child: _Child) -> list[bytes]:
    data = os.read(child.back, 1 << 16)
    if not data:
        _, status = os.waitpid(child.pid, 0)
        how = (
            f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {os.waitstatus_to_exitcode(status)}"
        )
        child.pid = 0
        raise WorkError(
            "MTH-0006",
            f"the process that ran {child.job} ended by {how}",
            hint="finished work is kept; run the same command again, with fewer jobs if memory ran out",
        )
    *lines, child.unread = (child.unread + data).split(b"\n")
    return lines


def _raise(job: str, message: Mapping[str, Any]) -> NoReturn:
    if "error" in message:
        error = message["error"]
        kind = next((k for k in _kinds(MithridateError) if k.__name__ == error["kind"]), WorkError)
        raise kind(error["code"], error["message"], hint=error["hint"])
    raise WorkError("MTH-0007", f"{job} failed: {message['failed']}", hint="finished work is kept") from RuntimeError(
        message["traceback"]
    )


def _kinds(base: type[MithridateError]) -> Iterator[type[MithridateError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)


def _spawn(execute: Execute, setup: Callable[[], None]) -> _Child:
    job_read, job_write = os.pipe()
    back_read, back_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(job_read)
        os.close(back_write)
        return _Child(pid, job_write, back_read)
    os.close(job_write)
    os.close(back_read)
    status = 1
    try:
        _die_with(parent)
        setup()
        _serve(job_read, back_write, execute)
        status = 0
    finally:
        os._exit(status)


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process with its parent, and leave interrupts to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _serve(jobs: int, back: int, execute: Execute) -> None:
    def send(message: Mapping[str, Any]) -> None:
        data = (json.dumps(message) + "\n").encode()
        while data:
            data = data[os.write(back, data) :]

    with os.fdopen(jobs) as lines:
        for line in lines:
            try:
                send({"result": execute(json.loads(line), lambda word: send({"word": word}))})
            except MithridateError as error:
                kind = type(error).__name__
                send({"error": {"kind": kind, "code": error.code, "message": error.message, "hint": error.hint}})
            except Exception as error:  # noqa: BLE001 - the parent re-raises what a child cannot handle
                last = f"{type(error).__name__}: {error}"
                send({"failed": last, "traceback": traceback.format_exc()})


def _end(child: _Child) -> None:
    os.close(child.to)
    os.close(child.back)
    if child.pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
