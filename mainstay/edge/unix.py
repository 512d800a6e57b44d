"""Serves an ASGI application on a local socket with uvicorn, without its signals and its logging."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import uvicorn


@contextlib.asynccontextmanager
async def serve_app(app: Any, path: Path, *, local: bool) -> AsyncGenerator[None]:
    """``app`` at ``path`` (mode 0600). ``local`` goes into the scope's state: whoever opens that socket is an administrator."""

    async def marked(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["mainstay.local"] = local
        try:
            await app(scope, receive, send)
        except Exception:  # the application has answered it and said where; uvicorn would log its message, and content
            return

    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    os.chmod(path, 0o600)
    listening.listen(256)
    listening.setblocking(False)
    config = uvicorn.Config(
        marked,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # nobody is believed about who they are
        ws="none",
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]), name=f"serve {path.name}")
    try:
        while not server.started:
            if task.done():
                task.result()
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task
        listening.close()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:  # the process handles its signals itself
        yield
