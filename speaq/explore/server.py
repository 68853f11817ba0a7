"""Serves an application on a socket of this machine until Ctrl-C."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from speaq.config import ConfigError
from speaq.explore.app import LOOPBACK


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is a free one. Raises ConfigError where it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be used ({error})") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def known_names(host: str) -> tuple[str, ...]:
    """Names in a Host header that are answered; any where the server listens at all addresses of the machine."""
    if host in ("0.0.0.0", "::"):
        return ("*",)
    return (*LOOPBACK, f"[{host}]" if ":" in host else host)


def address(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(app: ASGIApp, listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Answers until interrupted; `ready` is given the address."""
    config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2, server_header=False)
    ready(address(listening))
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
