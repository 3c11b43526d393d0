"""The HTTP door: a JSON API over `service`, for any client.

    GET  /v1/models      the models
    POST /v1/solve       puzzles in, answers out
    POST /v1/steps       one puzzle; an event after every supervision step (server-sent events)
    POST /v1/think       one supervision step of puzzles, for callers who own the loop and the state
    GET  /models.json    the models as the page lists them, those of its own folder first
    GET  /openapi.json   the API, for machines
    GET  /healthz        whether it is up
    GET  /metrics        figures, in the text format of Prometheus

Whatever is wrong is answered as one line of JSON, {"error": "..."}. There is no page of the API: FastAPI's
own loads its scripts from elsewhere.
"""

import asyncio
import hmac
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import trm
from trm import page
from trm.config import Effort, allowed
from trm.errors import UserError, one_line
from trm.serving.joining import Ended, Ticket
from trm.serving.service import Service

_OPEN = ("/healthz", "/openapi.json")  # for which no token is asked
_AHEAD = 16  # events that are computed ahead of a client that reads slowly
_EFFORT = Effort()


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, strict=True)

    model: str = ""
    """The model's name. Default: the one that fits the puzzle."""
    effort: Effort = _EFFORT
    """How long, and in how many ways, to think."""
    puzzle_id: int = Field(0, ge=0, lt=2**31)
    """Which rule the puzzles follow, for a model that was trained on several."""


class SolveBody(_Body):
    """Puzzles to solve."""

    puzzles: list[str] = Field(min_length=1)
    """Puzzles of one size, each as text: row by row, with `.` or `0` for a blank."""


class StepsBody(_Body):
    """A puzzle to watch."""

    puzzle: str
    """The puzzle as text."""


class State(BaseModel):
    """A state, as an earlier step gave it or changed: float32, little endian, in base64."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, strict=True)

    y: str
    """The answer, [puzzles, positions, width]."""
    z: str = ""
    """The latent, of models that have one; of the same shape."""


class ThinkBody(BaseModel):
    """Puzzles to think about by one supervision step."""

    model_config = _Body.model_config

    model: str = ""
    """The model's name. Default: the one that fits the puzzles."""
    puzzle_id: int = Field(0, ge=0, lt=2**31)
    """Which rule the puzzles follow, for a model that was trained on several."""
    puzzles: list[str] = Field(min_length=1)
    """Puzzles of one size, as text. Nobody asks whether they have a solution."""
    state: State | None = None
    """Where to go on from. Default: the start."""


class Solved(BaseModel):
    """Answers, in the order of the puzzles."""

    model: str
    answers: list[dict[str, Any]]
    """As `trm solve --json` says them."""


class Refused(BaseModel):
    """What is wrong, in one line."""

    error: str


class Thought(BaseModel):
    """What a model says after a supervision step."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: str
    logits: str
    """[puzzles, cells, tokens], float32, little endian, in base64."""
    halt: list[float]
    """Logits that the answers are right."""
    moved: dict[str, list[float]]
    """How far y and z moved: the root of the mean square, for every puzzle."""
    state: State


class Line(Response):
    """Plain values as one line of JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The line."""
        return json.dumps(content, allow_nan=False).encode() + b"\n"


def refusal(status: int, text: object, **headers: str) -> Line:
    """An error as one line."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Line({"error": one_line(Exception(str(text)))}, status, given)


class Figures:
    """What `/metrics` says."""

    def __init__(self, service: Service):
        self.service = service
        self.answered: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.puzzles: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.at_work = self.abandoned = 0

    def text(self) -> str:
        """All figures."""
        joining = self.service.joining
        rows = [
            (
                "requests_total",
                "counter",
                "requests answered",
                {f'path="{path}",status="{status}"': n for (path, status), n in self.answered.items()},
            ),
            (
                "request_seconds_total",
                "counter",
                "seconds from request to answer",
                {f'path="{path}"': round(n, 6) for path, n in self.seconds.items()},
            ),
            (
                "puzzles_total",
                "counter",
                "puzzles answered",
                {f'model="{m}"': n for m, n in self.puzzles.items()},
            ),
            (
                "supervision_steps_total",
                "counter",
                "supervision steps of their rollouts",
                {f'model="{m}"': n for m, n in self.steps.items()},
            ),
            ("abandoned_total", "counter", "requests whose client went away", {"": self.abandoned}),
            ("requests_at_work", "gauge", "requests being worked on", {"": self.at_work}),
            (
                "forward_passes_total",
                "counter",
                "forward passes of one supervision step",
                {"": joining.passes},
            ),
            ("forward_rows_total", "counter", "rows in them", {"": joining.computed}),
        ]
        lines = []
        for name, kind, about, values in rows:
            lines += [f"# HELP trm_{name} {about}", f"# TYPE trm_{name} {kind}"]
            lines += [
                f"trm_{name}{{{label}}} {n}" if label else f"trm_{name} {n}" for label, n in values.items()
            ]
        return "\n".join(lines) + "\n"


class Gate:
    """Before everything else: the token, the size of the body, the figures.

    The body is read here, whole, so that nobody sends more than the limit or takes more than the time.
    """

    def __init__(self, app: ASGIApp, figures: Figures, token: str = ""):
        self.app, self.figures, self.token = app, figures, token.encode()
        self.limits = figures.service.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            refused, body = await self._admit(scope, receive)
            if refused is not None:
                await refused(scope, receive, tell)
                return
            await self.app(scope, _again(body, receive), tell)
        finally:
            known = scope["path"] if scope["path"] in PATHS else "other"
            self.figures.answered[known, status] += 1
            self.figures.seconds[known] += time.monotonic() - started

    async def _admit(self, scope: Scope, receive: Receive) -> tuple[Response | None, bytes]:
        """What is wrong with a request before anybody reads it, and its body."""
        headers = dict(scope["headers"])
        guarded = scope["path"] in PATHS and scope["path"] not in _OPEN
        if self.token and guarded and scope["method"] != "OPTIONS":
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if not hmac.compare_digest(given.strip(), self.token) or scheme.lower() != b"bearer":
                return refusal(
                    401, "give the token: Authorization: Bearer TOKEN", www_authenticate="Bearer"
                ), b""
        most = self.limits.body
        too_large = refusal(413, f"the body is too large: at most {most} bytes", connection="close")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            return too_large, b""
        body = b""
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return refusal(400, "the body ended before its end"), b""
                    body += message.get("body", b"")
                    if len(body) > most:
                        return too_large, b""
                    if not message.get("more_body"):
                        return None, body
        except TimeoutError:
            return refusal(408, f"the body took more than {self.limits.seconds:g} s"), b""


def _again(body: bytes, receive: Receive) -> Receive:
    """Receive a body that was read before, then what comes after it."""
    told = False

    async def tell() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return tell


PATHS = (
    *("/v1/models", "/v1/solve", "/v1/steps", "/v1/think"),
    *("/models.json", "/openapi.json", "/healthz", "/metrics"),
)


def build(service: Service, token: str = "", origins: tuple[str, ...] = (), site: str = "") -> ASGIApp:
    """The application.

    With a `token`, the API is for those who send it. `origins` are pages of other places that may ask, by
    default none. `site` is the folder of the page, served at /; it may hold models that run in the browser.
    """
    limits, figures = service.limits, Figures(service)
    threads = ThreadPoolExecutor(limits.requests, "request")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        threads.shutdown()  # the server has waited for what was in flight
        service.close()

    app = FastAPI(
        title="trm",
        version=trm.__version__,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses={status: {"model": Refused} for status in (401, 413, 422, 429, 503)},
    )

    @contextmanager
    def working() -> Iterator[Ticket]:
        """A place among the requests that are worked on."""
        if figures.at_work >= limits.requests:
            raise HTTPException(
                429, f"{limits.requests} requests are being worked on: come back", {"Retry-After": "1"}
            )
        figures.at_work += 1
        ticket = Ticket(limits.seconds)
        try:
            yield ticket
        finally:
            ticket.gone.set()
            figures.at_work -= 1

    def count(model: str, puzzles: int, steps: int) -> None:
        figures.puzzles[model] += puzzles
        figures.steps[model] += steps

    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the server is up."""
        return Line({"status": "ok"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures, in the text format of Prometheus."""
        return PlainTextResponse(figures.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> Response:
        """The models: name, family, size of the boards."""
        return Line({"models": service.about()})

    @app.post("/v1/solve", response_model=Solved)
    async def solve(body: SolveBody, request: Request) -> Response:
        """Solve puzzles. Those of many requests are computed together."""
        with working() as ticket:
            work = asyncio.get_running_loop().run_in_executor(
                threads, service.solve, ticket, body.puzzles, body.effort, body.model, body.puzzle_id
            )
            name, answers = await _unless_gone(work, ticket, request, figures)
        count(name, len(answers), sum(answer.steps for answer in answers))
        return Line({"model": name, "answers": [answer.as_dict() for answer in answers]})

    @app.post("/v1/steps", responses={200: {"content": {"text/event-stream": {}}}})
    async def steps(body: StepsBody, request: Request) -> Response:
        """Watch one puzzle: an event `step` after every supervision step, the last with `done` true."""
        asked = body.puzzle, body.effort, body.model, body.puzzle_id
        with ExitStack() as place:
            ticket = place.enter_context(working())
            events = _Events(lambda: service.steps(ticket, *asked), ticket)
            threads.submit(events.fill)
            first = await _unless_gone(asyncio.ensure_future(events.next()), ticket, request, figures)
            leave = place.pop_all().close

        async def stream() -> AsyncIterator[str]:
            event = first
            try:
                while event is not None:
                    yield f"event: step\ndata: {json.dumps(event)}\n\n"
                    if event["done"]:
                        count(event["model"], 1, event["step"])
                        return
                    event = await events.next()
            except (Ended, UserError) as error:
                text = _late(limits.seconds) if isinstance(error, Ended) else one_line(error)
                yield f"event: error\ndata: {json.dumps({'error': text})}\n\n"

        def end() -> None:
            figures.abandoned += not events.over
            leave()

        return _Stream(stream(), end)

    @app.post("/v1/think", response_model=Thought)
    async def think(body: ThinkBody, request: Request) -> Response:
        """Think by one supervision step. Rows of many requests are computed together."""
        state = body.state.model_dump() if body.state else None
        with working() as ticket:
            work = asyncio.get_running_loop().run_in_executor(
                threads, service.think, ticket, body.puzzles, state, body.model, body.puzzle_id
            )
            thought = await _unless_gone(work, ticket, request, figures)
        count(thought["model"], 0, len(body.puzzles))
        return Line(thought)

    if site:
        own = page.models(Path(site))
        here = {entry["name"] for entry in own}  # what runs in the browser need not be asked for

        @app.get("/models.json", include_in_schema=False)
        async def page_models() -> Response:
            return Line([*own, *(entry for entry in service.page() if entry["name"] not in here)])

        app.mount("/", StaticFiles(directory=site, html=True))

    @app.exception_handler(Exception)
    async def on_fault(_: Request, __: Exception) -> Response:
        return refusal(500, "the server failed at this: its log says why")

    @app.exception_handler(UserError)
    async def on_user_error(_: Request, error: UserError) -> Response:
        return refusal(422, error)

    @app.exception_handler(Ended)
    async def on_end(_: Request, error: Ended) -> Response:
        return refusal(503, _late(limits.seconds))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:
        return refusal(422, _fault(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        text = error.detail
        if error.status_code == 404:
            text = f"there is no {request.url.path}: {', '.join(PATHS)}"
        elif error.status_code == 405:
            text = f"{request.method} is not what {request.url.path} takes"
        return refusal(error.status_code, text, **(dict(error.headers or {})))

    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    return Gate(app, figures, token)


class _Stream(StreamingResponse):
    """Server-sent events, with what is to be done at the end, however it comes."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], None]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


class _Events:
    """What a generator in a thread yields, for a coroutine."""

    def __init__(self, make: Callable[[], Iterator[dict[str, Any]]], ticket: Ticket):
        self.make, self.ticket = make, ticket
        self.room = threading.Semaphore(_AHEAD)
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[dict[str, Any] | Exception | None] = asyncio.Queue()
        self.over = False  # whether all that there is was taken

    def fill(self) -> None:
        """Run the generator to its end."""
        end: Exception | None = None
        try:
            for event in self.make():
                while not self.room.acquire(timeout=0.1):  # until the client has read what there is
                    self.ticket.check()
                self._put(event)
        except Exception as error:
            end = error
        self._put(end)

    async def next(self) -> dict[str, Any] | None:
        """The next value, None after the last; raises what the generator raised."""
        event = await self.queue.get()
        self.room.release()
        self.over = not isinstance(event, dict) or event["done"]
        if isinstance(event, Exception):
            raise event
        return event

    def _put(self, event: dict[str, Any] | Exception | None) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, event)


async def _unless_gone(work: asyncio.Future[Any], ticket: Ticket, request: Request, figures: Figures) -> Any:
    """The result of work, which ends early when the client goes away."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    leaving = asyncio.ensure_future(leave())
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            figures.abandoned += 1
            ticket.gone.set()
        return await work
    finally:
        leaving.cancel()


def _late(seconds: float) -> str:
    return f"this took more than {seconds:g} s: ask for fewer puzzles, steps, rollouts or decisions"


def _fault(fault: Any) -> str:
    """The first thing that is wrong with a body, in words."""
    place = ".".join(str(part) for part in fault["loc"] if part != "body") or "the body"
    if fault["type"] == "json_invalid":
        return f"the body is not JSON: {fault.get('ctx', {}).get('error', '')}"
    if fault["type"] == "extra_forbidden":
        return f"unknown field {place!r}"
    if fault["type"] == "missing":
        return f"{place} is missing" + (": give it as JSON" if place == "the body" else "")
    said = allowed(fault) or fault["msg"].removeprefix("Value error, ")
    return f"{place}: {said}"
