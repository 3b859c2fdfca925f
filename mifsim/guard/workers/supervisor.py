"""The parent of all workers: it listens, starts them, restarts those that die, and passes signals on."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from mifsim.errors import GuardError, UserError
from mifsim.guard.active import Active
from mifsim.guard.clock import Clock
from mifsim.guard.config import GuardConfig
from mifsim.guard.http_server import ReadAgain, log_address
from mifsim.guard.shards import Shard
from mifsim.guard.workers.listening import listen
from mifsim.guard.workers.worker import FAILED, STARTED, WorkerStart, run_worker

logger = logging.getLogger(__name__)

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
_LONGEST_PAUSE = 30.0
"""Seconds between restarts of a worker that dies again and again."""
_STABLE_SECONDS = 10.0
_KILL_SECONDS = 10.0


@dataclass
class _Worker:
    """A running worker."""

    number: int
    process: int
    control: socket.socket
    since: float
    message: bytes = b""


def supervise(settings: GuardConfig, alone: bool, read_again: ReadAgain) -> None:
    """Run workers until SIGTERM or SIGINT; see `mifsim.guard.serving.serve`.

    Raises
    ------
    GuardError
        If the address cannot be used, or a worker cannot start at all.
    """
    if not hasattr(os, "fork"):
        raise GuardError(f"listen.workers = {settings.listen.workers}: this system has no fork (expected 1)")
    if settings.ledger.url == "memory:":
        raise GuardError(
            f"ledger.url = 'memory:': the counts of a worker would end with it (expected a file such as "
            f"sqlite:guard.db, or listen.workers = 1 instead of {settings.listen.workers})"
        )
    active = Active.of(settings, alone)
    _Supervisor(active, alone, read_again, listen(settings.listen.host, settings.listen.port)).run()


class _Supervisor:
    """The parent of workers. It has no event loop and starts no thread, so that it can fork at any time."""

    def __init__(self, active: Active, alone: bool, read_again: ReadAgain, listeners: list[socket.socket]) -> None:
        self._active, self._alone, self._read_again, self._listeners = active, alone, read_again, listeners
        self._count = active.settings.listen.workers
        self._clock = Clock()
        self._workers: dict[int, _Worker] = {}
        self._due = {0: 0.0}
        """When a worker that does not run is started."""
        self._pauses: dict[int, float] = {}
        self._complete = False
        """Whether all workers have run at the same time."""
        self._kill_at: float | None = None
        """When workers that do not end are killed; None: the guard is not ending."""
        self._failure = ""
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Run until all workers have ended."""
        wake, waker = socket.socketpair()
        wake.setblocking(False)
        waker.setblocking(False)
        before = {number: signal.signal(number, _nothing) for number in _SIGNALS}
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ)
        try:
            while self._workers or self._kill_at is None:
                self._start_those_due()
                for key, _ in self._selector.select(self._timeout()):
                    if key.fileobj is wake:
                        for number in set(wake.recv(4096)):
                            self._handle(number)
                    else:
                        self._listen_to(key.data)
                self._reap()
                if self._kill_at is not None and time.monotonic() > self._kill_at:
                    self._send(signal.SIGKILL)
        finally:
            signal.set_wakeup_fd(-1)
            for signal_number, handler in before.items():
                signal.signal(signal_number, handler)
            self._selector.close()
            wake.close()
            waker.close()
        if self._failure:
            raise GuardError(self._failure)

    def _timeout(self) -> float | None:
        """Return the seconds until something is due; None: only events matter."""
        times = [*self._due.values()] if self._kill_at is None else [self._kill_at]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _handle(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._end()
        elif number == signal.SIGHUP:
            self._reload()

    def _end(self) -> None:
        """Have all workers finish their requests."""
        listen = self._active.settings.listen
        if self._kill_at is None:
            self._kill_at = time.monotonic() + listen.drain + 3 * listen.grace + _KILL_SECONDS
            self._due.clear()
            for listener in self._listeners:  # the workers take connections until they have closed it, too
                listener.close()
        self._send(signal.SIGTERM)

    def _reload(self) -> None:
        """Check the settings, and have all workers read them; those that start later have them, too."""
        running = self._active.settings
        try:
            self._active = Active.of(self._read_again().reloaded(running), self._alone)
        except UserError as error:
            logger.error("not reloaded: %s", error)
            return
        self._send(signal.SIGHUP)

    def _send(self, number: int) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process, number)

    def _listen_to(self, worker: _Worker) -> None:
        """Read what a worker says."""
        try:
            text = worker.control.recv(65536)
        except OSError:
            text = b""
        if not text:
            self._selector.unregister(worker.control)
        elif text.startswith(STARTED):
            self._one_has_started()
            worker.message += text.removeprefix(STARTED)
        else:
            worker.message += text

    def _one_has_started(self) -> None:
        if self._complete or self._kill_at is not None:
            return
        if len(self._workers) < self._count:  # one after the other: the first one creates the ledger
            self._due[len(self._workers)] = 0.0
        else:
            self._complete = True
            for listener in self._listeners:
                log_address(listener, bool(self._active.settings.listen.certificate))

    def _reap(self) -> None:
        """Notice workers that have ended, and plan to start them again."""
        for worker in list(self._workers.values()):
            process, status = os.waitpid(worker.process, os.WNOHANG)
            if process == 0:
                continue
            while worker.control.fileno() in self._selector.get_map():  # what it said last
                self._listen_to(worker)
            worker.control.close()
            del self._workers[worker.number]
            if self._kill_at is None:
                self._plan_restart(worker, os.waitstatus_to_exitcode(status))

    def _plan_restart(self, worker: _Worker, code: int) -> None:
        said = worker.message.removeprefix(FAILED).decode(errors="replace")
        how = said or (f"signal {-code}" if code < 0 else f"exit code {code}")
        if not self._complete:
            self._failure = said or f"worker {worker.number} could not start: {how}"
            self._end()
            return
        pause = 0.0
        if time.monotonic() - worker.since > _STABLE_SECONDS:
            self._pauses.pop(worker.number, None)
        elif worker.number in self._pauses:
            pause = min(_LONGEST_PAUSE, max(0.5, 2 * self._pauses[worker.number]))
        self._pauses[worker.number] = pause
        self._due[worker.number] = time.monotonic() + pause
        logger.error("worker %d has ended (%s); it starts again in %g s", worker.number, how, pause)

    def _start_those_due(self) -> None:
        for number in [number for number, due in self._due.items() if due <= time.monotonic()]:
            del self._due[number]
            self._start(number)

    def _start(self, number: int) -> None:
        control, for_worker = socket.socketpair()
        pairs = {other: socket.socketpair() for other in self._workers}
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        process = os.fork()
        if process == 0:
            self._close_in_child([control, *(pair[0] for pair in pairs.values())])
            self._become(number, for_worker, {other: pair[1] for other, pair in pairs.items()})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for_worker.close()
        for other, (one_end, other_end) in pairs.items():
            other_end.close()
            with contextlib.suppress(OSError), one_end:  # OSError: it has just ended
                socket.send_fds(self._workers[other].control, [bytes([number])], [one_end.fileno()])
        worker = self._workers[number] = _Worker(number, process, control, time.monotonic())
        self._selector.register(control, selectors.EVENT_READ, worker)

    def _close_in_child(self, sockets: list[socket.socket]) -> None:
        """Close what belongs to the parent, so that workers notice when it ends."""
        self._selector.close()
        for worker in self._workers.values():
            worker.control.close()
        for end in sockets:
            end.close()

    def _become(self, number: int, control: socket.socket, links: dict[int, socket.socket]) -> NoReturn:
        """Run a worker in this new process, and end it."""
        signal.set_wakeup_fd(-1)
        for signal_number in _SIGNALS:
            signal.signal(signal_number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS - {signal.SIGHUP})
        code = 0
        try:
            run_worker(
                WorkerStart(
                    Shard(number, self._count), self._active, self._alone, self._read_again, self._clock,
                    self._listeners, links, control,
                )
            )  # fmt: skip
        except UserError as error:
            code = _say(control, str(error), 2)
        except BaseException as error:
            logger.exception("worker %d has failed", number)
            code = _say(control, f"worker {number} has failed: {error!r}", 1)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # not into the parent's code


def _say(control: socket.socket, message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        control.setblocking(True)
        control.sendall(FAILED + message.encode())
    return code


def _nothing(signal_number: int, frame: FrameType | None) -> None:
    """Handle a signal: its number is in the wakeup descriptor."""
