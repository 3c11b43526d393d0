"""`trm serve`: models behind an HTTP API."""

import os
import signal
import socket
import tempfile
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from trm.commands.common import at_least, console
from trm.config import ComputeConfig, Device, Dtype, Limits
from trm.errors import UserError

_LIMITS = Limits()
TOKEN = "TRM_SERVE_TOKEN"


def serve(
    models: Positional[tuple[str, ...]] = (),
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    site: Path | None = None,
    origin: tuple[str, ...] = (),
    device: Device = "auto",
    dtype: Dtype = "float32",
    limits: Annotated[Limits, arg(name="")] = _LIMITS,
) -> int:
    """Answer puzzles over HTTP, and show the page; those of many clients are computed together.

    Anybody who reaches the port may ask, unless the environment variable TRM_SERVE_TOKEN holds a token,
    which clients then send as `Authorization: Bearer TOKEN`. SIGTERM and Ctrl-C end it after what is in
    flight was answered. The API is described at /openapi.json, and in docs/deploy.md.

    For example:
      trm serve mini sudoku-9x9
      trm serve runs/mini --host 0.0.0.0 --port 80 --requests 16
      trm page sudoku-9x9 --out site; trm serve sudoku-9x9 --site site

    Args:
        models: Weights, each a model folder, a training run, bundled weights by name, or a hub repository. A
            request that names none gets one that fits its puzzle and learned on boards most like it.
        host: Address to listen at; 0.0.0.0 is every one of this machine.
        port: Port to listen at; 0 is any that is free.
        site: A folder that `trm page` wrote: its models run in the browser and not here. Default: the page
            shows the models of this server.
        origin: Web pages of other places that may ask, such as https://example.org.
        device: Where to compute.
        dtype: Precision of the forward pass.
        limits: What a request gets at most.
    """
    if not models:
        raise UserError("give models: trm serve MODEL...")
    at_least(0, port=port)
    if port > 65535:
        raise UserError(f"--port is {port}: give at most 65535")
    from trm import page

    if site is not None and not page.models(site):
        raise UserError(f"{site} holds no page: write one with `trm page MODEL... --out {site}`")
    try:
        import uvicorn

        from trm.serving.app import build
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs {error.name}: pip install 'trm[serve]'") from None
    from trm.serving.service import Service

    listening = _listen(host, port)  # before the models are loaded, which takes longer
    service = Service(models, ComputeConfig(device=device, dtype=dtype), limits)
    address, bound = listening.getsockname()[:2]
    console(stderr=True).print(
        f"http://{address}:{bound}: {', '.join(service.models)}; Ctrl-C ends", soft_wrap=True, highlight=False
    )
    # The server takes both signals while it runs, and raises what it took once more at its end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with tempfile.TemporaryDirectory() as written:
        if site is None:
            page.front_end(Path(written))
        app = build(service, os.environ.get(TOKEN, ""), origin, str(site or written))
        config = uvicorn.Config(
            app,
            host,
            port,
            access_log=False,
            log_level="warning",
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=round(limits.seconds) + 1,
        )
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=kind, backlog=2048)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port} ({error.strerror}): give another --host or --port"
        ) from None
