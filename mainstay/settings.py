"""Settings: where things are and how much of them there may be; read once from flags and environment, then frozen."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

_SOCKET_PATH = 90
"""A socket's path may have 108 bytes on Linux and 104 elsewhere; longer folders get a stand-in."""


class BadSetting(ValueError):
    """A setting is not what it can be; the message says what it can."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is fixed for the life of a process. Sizes are in bytes, times in seconds."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    config: Path | None = None
    database: str = ""
    drain: float = 30.0
    disk_full: Literal["refuse", "serve"] = "refuse"
    cache_bytes: int = 24 * 1024 * 1024
    cache_disk_bytes: int = 256 * 1024 * 1024
    cache_url: str = ""
    max_body: int = 32 * 1024 * 1024
    connections: int = 10_000
    retention_days: int = 90
    spans_content: bool = False
    otlp_endpoint: str = ""
    otlp_headers: str = ""
    otlp_protocol: str = "http/protobuf"
    otlp_names: str = ""
    otlp_content: bool = False
    otlp_metrics_seconds: float = 60.0
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def database_url(self) -> str:
        """The control database: the given one, or SQLite in the home."""
        return self.database or f"sqlite+aiosqlite:///{self.home / 'mainstay.db'}"

    @property
    def run(self) -> Path:
        """Where the local sockets, locks and the Snapshot are."""
        run = self.home / "run"
        if len(os.fsencode(run)) <= _SOCKET_PATH:
            return run
        name = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"mainstay-{os.getuid()}-{name}"

    @property
    def journal(self) -> Path:
        """The folder with a journal for each gateway process."""
        return self.home / "journal"

    @property
    def responses(self) -> Path:
        """Where gateways leave responses that control is to store."""
        return self.home / "responses"

    @property
    def cache(self) -> Path:
        """The folder with the exact cache's entries."""
        return self.home / "cache"

    @property
    def control_socket(self) -> Path:
        """The control API over HTTP, for what gateways pass on."""
        return self.run / "control.sock"

    @property
    def admin_socket(self) -> Path:
        """The same for the command line: whoever may open it is an administrator."""
        return self.run / "admin.sock"

    @property
    def link_socket(self) -> Path:
        """The messages between control and gateways."""
        return self.run / "link.sock"

    @property
    def snapshot(self) -> Path:
        """The last good Snapshot."""
        return self.run / "snapshot"

    def prepare(self) -> None:
        """Make the folders, readable by nobody else. Raises ``BadSetting`` where that cannot be."""
        for folder in (self.home, self.run, self.journal):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                raise BadSetting(f"{folder} cannot be used: {error.strerror}; choose another --home") from None
        # The stand-in for a long path is where others may write too.
        if self.run.is_symlink() or self.run.stat().st_uid != os.getuid():
            raise BadSetting(f"{self.run} belongs to somebody else; choose another --home")
        if self.run.stat().st_mode & 0o077:
            self.run.chmod(0o700)


def read(environment: Mapping[str, str], **flags: object) -> Settings:
    """Settings from flags (None: not given), else from ``MAINSTAY_…`` in ``environment``, else the defaults.

    Raises ``BadSetting``.
    """
    given: dict[str, object] = {}
    standard = _standard(environment)
    for name, kind in _KINDS.items():
        value = flags.get(name)
        if value is None:
            text = environment.get(f"MAINSTAY_{name.upper()}") or standard.get(name)
            if text is None or text == "":
                continue
            value = text
        try:
            given[name] = kind(value)
        except ValueError:
            raise BadSetting(f"{name} cannot be {value!r}; give {_WORDS[name]}") from None
    home = given.pop("home", None) or Path.cwd() / ".mainstay"
    assert isinstance(home, Path)
    settings = Settings(home=home.expanduser().resolve(), **given)  # type: ignore[arg-type]
    if settings.disk_full not in ("refuse", "serve"):
        raise BadSetting("disk_full is refuse or serve")
    if not 1 <= settings.workers <= 256:
        raise BadSetting("workers is a number from 1 to 256")
    if not 0 <= settings.port <= 65535:
        raise BadSetting("port is a number from 0 to 65535")
    if settings.otlp_endpoint:
        _check_collector(settings)
    if settings.cache_url:
        _check_server(settings.cache_url)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise BadSetting("tls_cert and tls_key go together; give both or none")
    return settings


def _standard(environment: Mapping[str, str]) -> dict[str, str]:
    """What OpenTelemetry's own variables say. They may be meant for others: what is not for us does not keep us from
    starting, unlike a mistake in ours."""
    found = {name: environment[variable] for name, variable in _STANDARD.items() if environment.get(variable)}
    names = [word.strip() for word in found.pop("otlp_names", "").split(",")]
    if "gen_ai_latest_experimental/dup" in names:
        found["otlp_names"] = "both"
    elif "gen_ai_latest_experimental" in names:
        found["otlp_names"] = "new"
    if environment.get("MAINSTAY_OTLP_ENDPOINT"):  # another collector's headers are nothing for ours
        return {name: value for name, value in found.items() if name == "otlp_names"}
    try:
        _check_collector(Settings(Path(), **found))  # type: ignore[arg-type]
    except BadSetting:
        return {}
    return found


def _check_collector(settings: Settings) -> None:
    """Before anything starts. The headers are not repeated: they may hold a secret."""
    try:
        parts = urlsplit(settings.otlp_endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, good = urlsplit(""), False
    if not good or "@" in parts.netloc or parts.query:
        raise BadSetting("otlp_endpoint is the address of a collector, such as https://collector.internal:4318")
    if settings.otlp_protocol not in ("http/protobuf", "http/json"):
        raise BadSetting("otlp_protocol is http/protobuf or http/json; gRPC is not spoken")
    if settings.otlp_names not in ("", "old", "new", "both"):
        raise BadSetting("otlp_names is old, new or both")
    if any("=" not in pair for pair in settings.otlp_headers.split(",") if pair.strip()):
        raise BadSetting("otlp_headers is name=value pairs with commas between")
    if not settings.otlp_metrics_seconds >= 1:
        raise BadSetting("otlp_metrics_seconds is a number from 1 on")


def _check_server(url: str) -> None:
    """Before anything starts: a gateway would fail at it again and again. What is given is not repeated: it may hold
    a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("valkey", "valkeys", "redis", "rediss", "unix") and (parts.port is None or parts.port)
    except ValueError:
        good = False
    if not good:
        raise BadSetting("cache_url is the address of a server, such as valkey://cache.internal:6379/0")
    if find_spec("valkey") is None:
        raise BadSetting("cache_url needs the module valkey; run: pip install 'mainstay[valkey]'")


def _path(value: object) -> Path:
    return Path(str(value)).expanduser()


def _int(value: object) -> int:
    return int(str(value))


def _bool(value: object) -> bool:
    text = str(value).lower()
    if text not in _BOOLS:
        raise ValueError
    return _BOOLS[text]


def _float(value: object) -> float:
    return float(str(value))


_BOOLS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_STANDARD = {
    "otlp_endpoint": "OTEL_EXPORTER_OTLP_ENDPOINT",
    "otlp_headers": "OTEL_EXPORTER_OTLP_HEADERS",
    "otlp_protocol": "OTEL_EXPORTER_OTLP_PROTOCOL",
    "otlp_names": "OTEL_SEMCONV_STABILITY_OPT_IN",
}
"""OpenTelemetry's own variables, where ours is not set."""

_KINDS = {
    "home": _path,
    "host": str,
    "port": _int,
    "workers": _int,
    "config": _path,
    "database": str,
    "drain": _float,
    "disk_full": str,
    "cache_bytes": _int,
    "cache_disk_bytes": _int,
    "cache_url": str,
    "max_body": _int,
    "connections": _int,
    "retention_days": _int,
    "spans_content": _bool,
    "otlp_endpoint": str,
    "otlp_headers": str,
    "otlp_protocol": str,
    "otlp_names": str,
    "otlp_content": _bool,
    "otlp_metrics_seconds": _float,
    "tls_cert": _path,
    "tls_key": _path,
}
_SORTS = ((_path, "a path"), (_int, "a whole number"), (_float, "a number"), (_bool, "true or false"))
_WORDS = {name: next((word for sort, word in _SORTS if sort is kind), "text") for name, kind in _KINDS.items()}
