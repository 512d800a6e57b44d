"""The supervisor: opens the port, starts control and the gateways, starts again what dies, and ends them in order."""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from mainstay.settings import Settings

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_STEADY = 30.0  # seconds after which a process counts as healthy, and its next restart is quick again
_START = 60.0  # seconds that control may take to be ready
_HANDOVER = 5.0  # seconds for the children of a supervisor that was killed to let go of home and port

_LOCK, _PID, _ENDED = "serve.lock", "serve.pid", "ended.json"


@dataclass
class Child:
    """One process that is kept alive."""

    name: str
    arguments: list[str]
    descriptors: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _FIRST_PAUSE
    again_at: float = 0.0
    ready: int = -1
    is_ready: bool = False
    said: bytearray = field(default_factory=bytearray)
    ended: int = 0  # times


class Supervisor:
    """Runs until it is told to end. Only standard library; it never sees a request."""

    def __init__(self, settings: Settings, greeting: Callable[[int], str] | None = None) -> None:
        self._settings = settings
        self._greeting = greeting
        self._ending = False
        self._hangup = False
        # The children hold the read end: it ends when this process does, whatever ended it.
        self._alive_read, self._alive_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._control: Child | None = None
        self._gateways: list[Child] = []
        self._said = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit status."""
        settings = self._settings
        os.umask(0o077)  # what is written into the home is nobody else's to read
        settings.prepare()
        lock = _locked(settings.run / _LOCK, 0.5)  # a command that looks whether one runs has it for a moment
        if lock is None:
            print(
                f"mainstay: {settings.home} is served already{_by(settings.run)}; choose another --home, "
                "or end that one first",
                file=sys.stderr,
            )
            return 1
        try:
            return self._serve()
        finally:
            os.close(lock)

    def _serve(self) -> int:
        settings = self._settings
        if settings.tls_cert is not None:
            try:  # every gateway would fail at it, again and again
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
            except OSError as error:  # an SSLError is one
                print(
                    f"mainstay: the certificate {settings.tls_cert} or its key cannot be used: {error}", file=sys.stderr
                )
                return 1
        try:
            listening = _listen(settings)
        except OSError as error:
            print(
                f"mainstay: cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; "
                "choose another --port or --host",
                file=sys.stderr,
            )
            return 1
        port = listening.getsockname()[1]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_end)
        signal.signal(signal.SIGHUP, self._on_hangup)
        signal.signal(signal.SIGCHLD, _on_child)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        (settings.run / _PID).write_text(f"{os.getpid()} {port}\n")
        (settings.run / _ENDED).unlink(missing_ok=True)
        self._control = self._child("control", "control", [], ())
        self._start(self._control)
        if not self._wait_ready(self._control):
            self._finish()
            return 0 if self._ending else 1
        descriptor = listening.fileno()
        for number in range(settings.workers):
            more = ["--fd", str(descriptor), "--number", str(number)]
            gateway = self._child("gateway", f"gateway {number}", more, (descriptor,))
            self._gateways.append(gateway)
            self._start(gateway)
        while not self._ending:
            if not self._said and all(gateway.is_ready for gateway in self._gateways):
                self._said = True
                self._say(port)
            self._watch()
        listening.close()
        self._finish()
        return 0

    def _child(self, role: str, name: str, more: list[str], descriptors: tuple[int, ...]) -> Child:
        settings = self._settings
        arguments = [sys.executable, "-P", "-m", "mainstay", role, "--home", str(settings.home), *more]
        arguments += ["--alive", str(self._alive_read)]
        return Child(name, arguments, (*descriptors, self._alive_read))

    def _start(self, child: Child) -> None:
        ready_read, ready_write = os.pipe()
        environment = dict(os.environ)
        environment.update(_environment(self._settings))
        environment.update(_same_package(environment))
        environment.setdefault("MALLOC_ARENA_MAX", "1")  # one thread allocates: more arenas only hold memory back
        if child is not self._control:
            # Large bodies go back to the system at once; left alone the allocator keeps room for the largest it has seen.
            environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(1024 * 1024))
        try:
            child.process = subprocess.Popen(
                [*child.arguments, "--ready", str(ready_write)],
                pass_fds=(*child.descriptors, ready_write),
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends them in order
            )
        except OSError as error:  # no memory or no process left: try again as after a death
            os.close(ready_read)
            self._ended(child, error.strerror or str(error))
            return
        finally:
            os.close(ready_write)
        os.set_blocking(ready_read, False)
        child.ready, child.is_ready, child.started = ready_read, False, time.monotonic()
        child.said.clear()
        self._selector.register(ready_read, selectors.EVENT_READ, child)

    def _wait_ready(self, child: Child) -> bool:
        until = time.monotonic() + _START
        while not child.is_ready and not self._ending:
            if child.process is None or child.process.poll() is not None:
                return False
            if time.monotonic() > until:
                print(f"mainstay: {child.name} was not ready within {_START:g} s", file=sys.stderr)
                return False
            self._turn(0.5)
        return child.is_ready

    def _watch(self) -> None:
        """One turn: restart what has died and waited long enough."""
        now = time.monotonic()
        children = [child for child in (self._control, *self._gateways) if child is not None]
        for child in children:
            if child.process is not None and child.process.poll() is not None:
                if now - child.started > _STEADY:
                    child.pause = _FIRST_PAUSE
                self._ended(child, _status(child.process.returncode))
            if child.process is None and now >= child.again_at:
                self._start(child)
        waiting = [child.again_at - now for child in children if child.process is None]
        self._turn(max(0.02, min([1.0, *waiting])))
        if self._hangup:
            self._hangup = False
            if self._control is not None and self._control.process is not None:
                self._control.process.send_signal(signal.SIGHUP)

    def _ended(self, child: Child, how: str) -> None:
        """Say that a child has ended, and when it is started again; the doctor finds it too."""
        print(
            f"mainstay: {child.name} ended ({how}); starting it again in {child.pause:g} s", file=sys.stderr, flush=True
        )
        child.process, child.again_at = None, time.monotonic() + child.pause
        child.pause = min(child.pause * 2, _LONGEST_PAUSE)
        child.ended += 1
        self._forget_ready(child)
        path = self._settings.run / _ENDED
        with suppress(OSError):  # a full disk must not end the supervisor
            found = ends(self._settings.run)
            found[child.name] = {"how": how, "at": time.time(), "times": child.ended}
            draft = path.with_name(f".{_ENDED}")
            draft.write_text(json.dumps(found))
            draft.replace(path)

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.fd == self._wake_read:
                try:
                    while os.read(self._wake_read, 512):
                        pass
                except BlockingIOError:
                    pass
                continue
            child = key.data
            said = os.read(key.fd, 4096)
            if said:
                child.said += said
                child.is_ready = child.said.startswith(b"ready")
            else:
                self._forget_ready(child)

    def _forget_ready(self, child: Child) -> None:
        if child.ready >= 0:
            self._selector.unregister(child.ready)
            os.close(child.ready)
            child.ready = -1

    def _say(self, port: int) -> None:
        said = bytes(self._control.said if self._control is not None else b"").decode().partition("\n")[2]
        scheme = "https" if self._settings.tls_cert else "http"
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        print(f"Mainstay is ready at {scheme}://{host}:{port}", flush=True)
        if said.strip():
            print(said.rstrip(), flush=True)
        if self._greeting is not None:
            print(self._greeting(port), flush=True)

    def _finish(self) -> None:
        """Gateways first, so that their last records are read; then control."""
        self._end([g for g in self._gateways if g.process is not None], self._settings.drain + 5)
        if self._control is not None and self._control.process is not None:
            self._end([self._control], 20.0)
        (self._settings.run / _PID).unlink(missing_ok=True)

    def _end(self, children: list[Child], patience: float) -> None:
        for child in children:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        until = time.monotonic() + patience
        for child in children:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"mainstay: {child.name} did not end within {patience:g} s and was killed", file=sys.stderr)
                child.process.kill()
                child.process.wait()

    def _on_end(self, _number: int, _frame: object) -> None:
        self._ending = True

    def _on_hangup(self, _number: int, _frame: object) -> None:
        self._hangup = True


def _on_child(_number: int, _frame: object) -> None:
    """Nothing to do: the signal has woken the selector."""


def _status(code: int) -> str:
    if code >= 0:
        return f"status {code}"
    with suppress(ValueError):
        return f"by {signal.Signals(-code).name}"
    return f"by signal {-code}"


def _listen(settings: Settings) -> socket.socket:
    """The listening socket. An earlier supervisor that was killed leaves gateways that close it within moments."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    left_behind = (settings.run / _PID).exists()
    until = time.monotonic() + _HANDOVER
    while True:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, settings.port))
            listening.listen(4096)
        except OSError:
            listening.close()
            if not left_behind or time.monotonic() > until:
                raise
            time.sleep(0.05)
            continue
        listening.setblocking(False)
        os.set_inheritable(listening.fileno(), True)
        return listening


def _same_package(environment: Mapping[str, str]) -> dict[str, str]:
    """What makes a child import the package that this process runs, whatever lies in the folder it was started in."""
    place = Path(__file__).resolve().parents[1]
    if place.name in ("site-packages", "dist-packages"):
        return {}  # found there without being told
    return {"PYTHONPATH": os.pathsep.join([str(place), *filter(None, [environment.get("PYTHONPATH")])])}


def _environment(settings: Settings) -> dict[str, str]:
    """The settings for a child, as the environment that it reads them from."""
    given: dict[str, str] = {}
    for name in Settings.__dataclass_fields__:
        value = getattr(settings, name)
        if value is not None and name != "home":
            given[f"MAINSTAY_{name.upper()}"] = str(value)
    return given


def _locked(path: Path, patience: float = 0.0) -> int | None:
    """The lock of whoever serves this home; None where another has it. It ends with its process, whatever ends that."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
            time.sleep(0.02)


def _by(run: Path) -> str:
    try:
        pid, port = (run / _PID).read_text().split()
    except (OSError, ValueError):
        return ""
    return f" by process {pid}, on port {port}"


def running(run: Path) -> bool:
    """Whether a supervisor of this home is alive."""
    if not (run / _LOCK).exists():
        return False
    lock = _locked(run / _LOCK)
    if lock is None:
        return True
    os.close(lock)
    return False


def ends(run: Path) -> dict[str, dict[str, Any]]:
    """The processes that ended by themselves since the supervisor began: how the last time, at what time, how often."""
    try:
        found: object = json.loads((run / _ENDED).read_text())
    except (OSError, ValueError):
        return {}
    return cast(dict[str, dict[str, Any]], found) if isinstance(found, dict) else {}
