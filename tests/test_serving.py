"""The server: steps that are joined, the limits, the API, and one real process from its start to its end."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tiny
import torch
from tiny import PUZZLES

from trm import cli, page, pretrained
from trm.config import ComputeConfig, Effort, Limits, ModelConfig
from trm.errors import UserError
from trm.inference.solver import Solver
from trm.models import State, build
from trm.serving.app import build as build_app
from trm.serving.joining import Ended, Joining, Ticket
from trm.serving.service import Service

ALL_STEPS = Effort(early_stop=False)


@pytest.fixture
def joining() -> Iterator[Joining]:
    """One whose passes wait for everybody."""
    made = Joining(patience=5)
    yield made
    made.close()


def together(joining: Joining, works: list[Callable[[], Any]], seconds: float = 60) -> list[Any]:
    """Run works as requests that all begin before the first step."""
    begun = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        with joining.request(Ticket(seconds)):
            begun.wait()
            return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def joined(joining: Joining, seed: int = 2, steps: int = 6) -> Solver:
    return Solver(joining.of(tiny.model(seed)), tiny.TASK, steps)


def test_rows_of_all_requests_share_a_pass_and_answers_stay_what_they_are(joining):
    solver, alone = joined(joining), tiny.solver()
    answers = together(joining, [lambda p=p: solver.solve(p, ALL_STEPS)[0] for p in PUZZLES])
    assert (joining.passes, joining.computed) == (6, 6 * len(PUZZLES))
    for answer, single in zip(answers, alone.solve(PUZZLES, ALL_STEPS), strict=True):
        assert answer.answer == single.answer
        assert answer.halt_probability == pytest.approx(single.halt_probability)


def test_requests_leave_when_they_are_done_and_others_go_on(joining):
    solver = joined(joining)
    efforts = [Effort(steps=n, early_stop=False) for n in (1, 3, 5)]
    answers = together(joining, [lambda e=e: solver.solve(PUZZLES[1], e)[0] for e in efforts])
    assert [answer.steps for answer in answers] == [1, 3, 5]
    assert (joining.passes, joining.computed) == (5, 1 + 3 + 5)


def test_a_request_that_comes_late_joins_those_at_work():
    joining = Joining(patience=0.001)
    solver, done = joined(joining), threading.Event()

    def long() -> int:
        with joining.request(Ticket(60)):
            for each in solver.steps(PUZZLES[0], Effort(steps=100_000, early_stop=False)):
                if done.is_set():
                    return each.step
        return 0

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(long)
        while joining.passes < 5:
            time.sleep(0.001)
        with joining.request(Ticket(60)):
            (answer,) = solver.solve(PUZZLES[1], ALL_STEPS)
        done.set()
        assert answer.steps == 6 and 5 < running.result() < 100_000
    joining.close()


def test_rollouts_votes_and_noise_are_joined_as_well(joining):
    solver, effort = joined(joining), Effort(rollouts=5, noise=0.3, select="vote")
    answers = together(joining, [lambda p=p: solver.solve(p, effort)[0] for p in PUZZLES[:3]])
    assert [a.answer for a in answers] == [a.answer for a in tiny.solver().solve(PUZZLES[:3], effort)]


def test_a_pass_holds_no_more_rows_than_it_may():
    sizes = []
    for most, expected in ((3, {1, 2, 3}), (1, {1})):
        joining = Joining(rows=most, patience=5)
        model = tiny.model()
        step = model.step
        setattr(model, "step", lambda state, x, step=step: (sizes.append(len(x)), step(state, x))[1])  # noqa: B010
        solver = Solver(joining.of(model), tiny.TASK, 4)
        together(joining, [lambda p=p, s=solver: s.solve(p, ALL_STEPS) for p in PUZZLES])
        assert set(sizes) <= expected and sum(sizes) == 4 * len(PUZZLES)
        sizes.clear()
        joining.close()


def test_other_models_and_other_boards_are_computed_apart(joining):
    one, other = joined(joining, 2), joined(joining, 3)
    answers = together(
        joining, [lambda s=s: s.solve(PUZZLES[0], ALL_STEPS)[0] for s in (one, other, one, other)]
    )
    assert joining.passes == 12
    assert answers[0] == answers[2] and answers[1] == answers[3]
    assert answers[1].halt_probability == pytest.approx(
        Solver(tiny.model(3), tiny.TASK, 6).solve(PUZZLES[0], ALL_STEPS)[0].halt_probability
    )


def test_a_fault_in_a_pass_is_told_to_those_in_it_alone(joining):
    solver, broken = joined(joining), tiny.model(3)

    def fail(state: State, x: torch.Tensor) -> None:
        raise ValueError("broken")

    setattr(broken, "step", fail)  # noqa: B010
    bad = Solver(joining.of(broken), tiny.TASK, 6)

    def failing() -> str:
        with pytest.raises(ValueError, match="broken"):
            bad.solve(PUZZLES[0])
        return "failed"

    found = together(joining, [failing, lambda: solver.solve(PUZZLES[0], ALL_STEPS)[0].steps, failing])
    assert found == ["failed", 6, "failed"]


def test_a_ticket_ends_a_request_between_two_steps(joining):
    solver, ticket = joined(joining), Ticket(60)
    with joining.request(ticket):
        steps = solver.steps(PUZZLES[0], Effort(steps=1000, early_stop=False))
        next(steps)
        ticket.gone.set()
        with pytest.raises(Ended):
            next(steps)
    with joining.request(Ticket(-1)), pytest.raises(Ended):
        solver.solve(PUZZLES[0])
    assert joining.passes == 1


# --- the service


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("serving") / "four")


@pytest.fixture
def make(weights) -> Iterator[Callable[..., Service]]:
    services = []

    def made(**limits: Any) -> Service:
        services.append(
            Service([str(weights)], ComputeConfig(device="cpu", dtype="float64"), Limits(**limits))
        )
        return services[-1]

    yield made
    for service in services:
        service.close()


@pytest.mark.parametrize(("side", "name"), [(4, "sudoku-9x9"), (12, "sudoku-16x16"), (25, "sudoku-16x16")])
def test_models_are_chosen_by_the_boards_on_which_they_learned(side: int, name: str):
    service = Service(["sudoku-9x9", "sudoku-16x16"], ComputeConfig(device="cpu"), Limits())
    try:
        assert service._choose("", ["." * side**2])[0] == name
    finally:
        service.close()


def test_bundled_models_are_chosen_by_the_puzzle():
    service = Service(["mini", "sudoku-9x9"], ComputeConfig(device="cpu"), Limits())
    six, nine, four = "..15....6.1.2......3.........3.6..21", "." * 81, PUZZLES[5]
    assert service.solve(Ticket(60), [six], Effort())[0] == "mini"
    (answer,) = service.solve(Ticket(60), [six], Effort(), "sudoku-9x9")[1]  # candidates serve every size
    assert answer.verified and len(answer.answer) == 36
    name, (answer,) = service.solve(Ticket(60), [four], Effort())
    assert name == "sudoku-9x9" and answer.verified
    with pytest.raises(UserError, match="solution"):
        service.solve(Ticket(60), [nine], Effort())
    with pytest.raises(UserError, match="no model here fits"):
        service.solve(Ticket(60), [nine], Effort(), "mini")
    service.close()


def test_a_model_searches_that_was_taught_to(tmp_path):
    options = {"kind": "candidates", "mixing": "relations", "halting": "every"}
    for name, head in (("taught", True), ("plain", False)):
        model = ModelConfig(width=8, layers=1, T=1, n=1, positions="none", conflict_head=head, **options)
        found = build(model, tiny.TASK.problem(), ComputeConfig(kernels="torch"))
        config = pretrained.PretrainedConfig(family=tiny.CONFIG, model=model, steps=2)
        pretrained.save(tmp_path / name, config, pretrained.weights(found))
    service = Service(
        [str(tmp_path / name) for name in ("taught", "plain")], ComputeConfig(device="cpu"), Limits()
    )
    assert [each["searches"] for each in service.about()] == [True, False]
    assert [each["about"]["searches"] for each in service.page()] == [True, False]
    service.close()


def test_models_that_cannot_be_served_are_refused(weights):
    with pytest.raises(UserError, match="same name"):
        Service([str(weights), str(weights)], ComputeConfig(), Limits())
    with pytest.raises(UserError, match="no-such"):
        Service(["no-such-model"], ComputeConfig(), Limits())


# --- HTTP


def ask(app: Any, *requests: tuple[str, str, dict]) -> list[httpx.Response]:
    """Send requests at once."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await asyncio.gather(*(client.request(m, path, **rest) for m, path, rest in requests))

    with ThreadPoolExecutor(1) as thread:  # this one may have the loop of a browser that other tests drive
        return thread.submit(asyncio.run, send()).result()


def line(answer: httpx.Response) -> Any:
    assert answer.text.count("\n") == 1 and answer.text.endswith("\n")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_the_api(make):
    app = build_app(make())
    models, solved, health, spec = ask(
        app,
        ("GET", "/v1/models", {}),
        ("POST", "/v1/solve", {"json": {"puzzles": PUZZLES[:3], "effort": {"steps": 4}}}),
        ("GET", "/healthz", {}),
        ("GET", "/openapi.json", {}),
    )
    (model,) = line(models)["models"]
    assert (model["name"], model["steps"], model["family"]["name"]) == ("four", 6, "sudoku")
    assert line(health) == {"status": "ok"}
    said = line(solved)
    expected = [answer.as_dict() for answer in tiny.solver().solve(PUZZLES[:3], Effort(steps=4))]
    assert said["model"] == "four" and [a["answer"] for a in said["answers"]] == [
        a["answer"] for a in expected
    ]
    assert set(said["answers"][0]) == set(expected[0])
    paths = spec.json()["paths"]
    assert set(paths) == {"/v1/models", "/v1/solve", "/v1/steps", "/v1/think", "/healthz", "/metrics"}
    assert "early_stop" in json.dumps(spec.json())


def test_requests_at_once_are_all_answered(make):
    service = make(requests=16)
    body = [{"puzzles": [p], "effort": {"early_stop": False}} for p in PUZZLES]
    answers = ask(build_app(service), *(("POST", "/v1/solve", {"json": each}) for each in body))
    assert [line(a)["answers"][0]["puzzle"] for a in answers] == list(PUZZLES)
    assert service.joining.passes < service.joining.computed == 6 * len(PUZZLES)


def test_steps_are_events(make):
    app = build_app(make())
    (answer,) = ask(
        app, ("POST", "/v1/steps", {"json": {"puzzle": PUZZLES[1], "effort": {"early_stop": False}}})
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = re.findall(r"event: step\ndata: (.*)\n\n", answer.text)
    events = [json.loads(each) for each in found]
    assert [e["step"] for e in events] == [1, 2, 3, 4, 5, 6]
    assert [e["done"] for e in events] == [False] * 5 + [True]
    assert events[-1]["answer"] == tiny.solver().solve(PUZZLES[1], ALL_STEPS)[0].answer
    (metrics,) = ask(app, ("GET", "/metrics", {}))
    assert 'trm_supervision_steps_total{model="four"} 6' in metrics.text
    assert 'trm_requests_total{path="/v1/steps",status="200"} 1' in metrics.text
    assert "trm_requests_at_work 0" in metrics.text and "trm_abandoned_total 0" in metrics.text


def solve(**body: Any) -> tuple[str, str, dict]:
    return "POST", "/v1/solve", {"json": {"puzzles": [PUZZLES[0]], **body}}


def steps(**body: Any) -> tuple[str, str, dict]:
    return "POST", "/v1/steps", {"json": {"puzzle": PUZZLES[0], **body}}


def raw(content: bytes, kind: str = "application/json") -> tuple[str, str, dict]:
    return "POST", "/v1/solve", {"content": content, "headers": {"content-type": kind}}


BAD = {
    "no such path": (("GET", "/v2/solve", {}), 404, "there is no /v2/solve"),
    "wrong method": (("GET", "/v1/solve", {}), 405, "GET is not"),
    "posted to models": (("POST", "/v1/models", {}), 405, "POST is not"),
    "deleted": (("DELETE", "/v1/steps", {}), 405, "DELETE"),
    "no body": (("POST", "/v1/solve", {}), 422, "the body is missing"),
    "not JSON": (raw(b"{puzzles"), 422, "not JSON"),
    "not UTF-8": (raw(b'{"puzzles": ["\xff\xfe"]}'), 400, ""),
    "cut off": (raw(b'{"puzzles": ["12'), 422, "not JSON"),
    "of another kind": (raw(b"puzzles=1", "application/x-www-form-urlencoded"), 422, ""),
    "deep": (raw(b"[" * 3900), 400, ""),
    "a list": (raw(b"[]"), 422, ""),
    "a number": (raw(b"7"), 422, ""),
    "null": (raw(b"null"), 422, ""),
    "too large": (raw(b" " * 5000), 413, "at most 4000 bytes"),
    "no puzzles": (raw(b"{}"), 422, "puzzles is missing"),
    "empty list": (solve(puzzles=[]), 422, "puzzles"),
    "puzzles a text": (solve(puzzles=PUZZLES[0]), 422, "puzzles"),
    "puzzles of numbers": (solve(puzzles=[1]), 422, "puzzles.0"),
    "puzzles null": (solve(puzzles=None), 422, "puzzles"),
    "too many puzzles": (solve(puzzles=PUZZLES[:5]), 422, "at most 4"),
    "empty puzzle": (solve(puzzles=[""]), 422, "cells"),
    "puzzle of another size": (solve(puzzles=["123"]), 422, "3 cells"),
    "two sizes": (solve(puzzles=[PUZZLES[0], "1"]), 422, "puzzle 2: "),
    "strange symbols": (solve(puzzles=["?" * 16]), 422, "'?'"),
    "symbols outside ASCII": (solve(puzzles=["\u0661" * 16]), 422, ""),
    "contradiction": (solve(puzzles=["11" + "." * 14]), 422, ""),
    "many solutions": (solve(puzzles=["." * 16]), 422, "solution"),
    "unknown field": (solve(depth=3), 422, "unknown field 'depth'"),
    "unknown effort": (solve(effort={"deep": 3}), 422, "unknown field 'effort.deep'"),
    "effort a number": (solve(effort=3), 422, "effort"),
    "no steps": (solve(effort={"steps": 0}), 422, "give more than 0"),
    "negative steps": (solve(effort={"steps": -1}), 422, "effort.steps"),
    "half steps": (solve(effort={"steps": 1.5}), 422, "effort.steps"),
    "too many steps": (solve(effort={"steps": 65}), 422, "at most 64"),
    "huge steps": (solve(effort={"steps": 10**30}), 422, "effort.steps"),
    "too many rollouts": (solve(effort={"rollouts": 9}), 422, "at most 8"),
    "no rollouts": (solve(effort={"rollouts": 0}), 422, "effort.rollouts"),
    "too long": (solve(effort={"seconds": 1e9}), 422, "at most 30"),
    "endless": (raw(b'{"puzzles": ["1"], "effort": {"seconds": Infinity}}'), 422, "effort.seconds"),
    "not a number": (raw(b'{"puzzles": ["1"], "effort": {"noise": NaN}}'), 422, "effort.noise"),
    "unknown choice": (solve(effort={"select": "best"}), 422, "effort.select"),
    "idle option": (solve(effort={"noise": 1}), 422, "would do nothing"),
    "rollouts all alike": (solve(effort={"rollouts": 2, "symmetries": False}), 422, "all be the same"),
    "budget below rollouts": (solve(effort={"rollouts": 4, "budget": 2}), 422, "budget"),
    "cannot search": (solve(effort={"search": 5}), 422, "candidates"),
    "unknown model": (solve(model="x\ny"), 422, "no model"),
    "model a number": (solve(model=1), 422, "model"),
    "puzzle id unknown": (solve(puzzle_id=1), 422, "ids below 1"),
    "puzzle id negative": (solve(puzzle_id=-1), 422, "puzzle_id"),
    "puzzle id huge": (solve(puzzle_id=2**70), 422, "puzzle_id"),
    "steps without puzzle": (("POST", "/v1/steps", {"json": {}}), 422, "puzzle is missing"),
    "steps of several": (steps(puzzle=list(PUZZLES)), 422, "puzzle"),
    "steps of rollouts": (steps(effort={"rollouts": 3}), 422, "one rollout"),
    "steps of a search": (steps(effort={"search": 3}), 422, "leave search out"),
    "steps of a wrong puzzle": (steps(puzzle="12"), 422, "2 cells"),
}


@pytest.fixture(scope="module")
def strict(weights):
    service = Service(
        [str(weights)],
        ComputeConfig(device="cpu", dtype="float64"),
        Limits(puzzles=4, steps=64, rollouts=8, seconds=30, body=4000),
    )
    yield service
    service.close()


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_said_in_one_line(strict, kind):
    request, status, text = BAD[kind]
    before = strict.joining.passes
    (answer,) = ask(build_app(strict), request)
    assert answer.status_code == status, answer.text
    assert text in line(answer)["error"] and line(answer).keys() == {"error"}
    assert len(answer.content) < 1500 and strict.joining.passes == before


def test_a_body_without_a_length_is_measured_as_it_comes(strict):
    async def endless():
        while True:
            yield b" " * 1000

    (answer,) = ask(build_app(strict), ("POST", "/v1/solve", {"content": endless()}))
    assert answer.status_code == 413 and "4000 bytes" in line(answer)["error"]


def test_more_requests_than_places_are_told_to_come_back(make):
    app = build_app(make(requests=2))
    body = {"puzzles": [PUZZLES[0]], "effort": {"steps": 200, "early_stop": False}}
    answers = ask(app, *[("POST", "/v1/solve", {"json": body})] * 5)
    assert sorted(a.status_code for a in answers) == [200, 200, 429, 429, 429]
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.headers["retry-after"] == "1" and "come back" in line(refused)["error"]
    assert ask(app, solve())[0].status_code == 200  # the places are free again


def test_time_that_is_over(make):
    app = build_app(make(seconds=0.2, steps=1_000_000))
    endless = {"effort": {"steps": 1_000_000, "early_stop": False}}
    late, watched = ask(app, solve(**endless), steps(**endless))
    assert late.status_code == 503 and "more than 0.2 s" in line(late)["error"]
    last = watched.text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\ndata: {") and "more than 0.2 s" in last


def test_the_token(make):
    app = build_app(make(), "secret")

    def status(*given: str) -> int:
        headers = {"authorization": given[0]} if given else {}
        (answer,) = ask(app, ("GET", "/v1/models", {"headers": headers}))
        assert answer.status_code == 200 or answer.headers["www-authenticate"] == "Bearer"
        assert "error" in line(answer) or answer.status_code == 200
        return answer.status_code

    assert status("Bearer secret") == status("bearer secret") == 200
    assert {status(), status("Bearer secre"), status("Basic secret"), status("secret"), status("Bearer")} == {
        401
    }
    assert ask(app, ("GET", "/healthz", {}))[0].status_code == 200
    assert {a.status_code for a in ask(app, solve(), steps(), ("GET", "/metrics", {}))} == {401}


def test_pages_of_other_places_may_ask_only_when_told_so(make):
    origin = {"headers": {"origin": "https://example.org", "access-control-request-method": "POST"}}
    service = make()
    (closed,) = ask(build_app(service), ("OPTIONS", "/v1/solve", origin))
    assert closed.status_code == 405 and "access-control-allow-origin" not in closed.headers
    (open_,) = ask(build_app(service, "", ("https://example.org",)), ("OPTIONS", "/v1/solve", origin))
    assert open_.status_code == 200 and "POST" in open_.headers["access-control-allow-methods"]
    assert open_.headers["access-control-allow-origin"] == "https://example.org"


def test_the_page_is_shown_with_models_of_the_server(make, tmp_path):
    page.front_end(tmp_path)
    app = build_app(make(), site=str(tmp_path))
    front, models, missing = ask(app, ("GET", "/", {}), ("GET", "/models.json", {}), ("GET", "/x.js", {}))
    assert "See it think" in front.text and missing.status_code == 404
    (entry,) = line(models)
    assert (entry["name"], entry["server"], entry["about"]["calls"]) == ("four", "v1/think", ["answer"])
    # What the site brings runs in the browser, and comes first.
    for own, names in (("other", ["other", "four"]), ("four", ["four"])):
        (tmp_path / "models.json").write_text(json.dumps([{"name": own, "folder": "models/x/"}]))
        (models,) = ask(build_app(make(), site=str(tmp_path)), ("GET", "/models.json", {}))
        assert [each["name"] for each in line(models)] == names
        assert line(models)[0] == {"name": own, "folder": "models/x/"}


def test_the_caller_owns_the_loop_and_the_state(make):
    service, (first, second) = make(), PUZZLES[1:3]
    app, state = build_app(service), None
    watched = {p: list(tiny.solver().steps(p, Effort(early_stop=False))) for p in (first, second)}
    for step in range(6):
        body = {"puzzles": [first, second]} | ({"state": state} if state else {})
        (answer,) = ask(app, ("POST", "/v1/think", {"json": body}))
        said = line(answer)
        logits = np.frombuffer(base64.b64decode(said["logits"]), "<f4").reshape(2, 16, -1)
        for row, puzzle in enumerate((first, second)):
            assert logits[row].argmax(-1).tolist() == watched[puzzle][step].answer.tolist()
            halt = torch.tensor(said["halt"][row]).sigmoid().item()
            assert halt == pytest.approx(watched[puzzle][step].halt_probability, abs=1e-4)
        assert set(said["moved"]) == {"y", "z"} and min(said["moved"]["y"]) > 0
        state = said["state"]
    assert service.joining.computed == 12


def test_a_state_that_is_none_is_refused(make):
    app = build_app(make())
    (first,) = ask(app, ("POST", "/v1/think", {"json": {"puzzles": PUZZLES[:1]}}))
    good = line(first)["state"]

    def fault(**changed: Any) -> str:
        body = {"puzzles": PUZZLES[:1], "state": good} | changed
        (answer,) = ask(app, ("POST", "/v1/think", {"json": body}))
        assert answer.status_code == 422
        return line(answer)["error"]

    def full(value: float) -> str:
        return base64.b64encode(np.full(16 * 16, value, "<f4").tobytes()).decode()

    assert "state.y has" in fault(puzzles=PUZZLES[:2])
    assert "state.z has 0 bytes" in fault(state={"y": good["y"]})
    assert "state.y is not base64" in fault(state={**good, "y": "*"})
    assert "state.y is not base64" in fault(state={**good, "y": "é"})
    assert "state.z holds values that are not finite" in fault(state={**good, "z": full(np.inf)})
    assert "the state leads to values that are not finite" in fault(state={"y": full(3e38), "z": full(3e38)})
    assert "state.y is missing" in fault(state={})
    assert "unknown field 'state.x'" in fault(state={**good, "x": ""})
    assert "ids below 1" in fault(puzzle_id=1)
    assert "give at most 100" in fault(puzzles=list(PUZZLES[:1]) * 101)


def test_a_step_of_many_puzzles_lets_others_in_and_has_an_end():
    service = Service(["sudoku-9x9"], ComputeConfig(device="cpu"), Limits())
    nine = "." * 81
    chunk = service._solver("sudoku-9x9", service.configs["sudoku-9x9"].family).chunk
    thought = service.think(Ticket(60), [nine] * (chunk + 1), None)
    assert (service.joining.passes, len(thought["halt"])) == (2, chunk + 1)
    assert thought["halt"] == pytest.approx(thought["halt"][:1] * (chunk + 1), abs=1e-3)
    # The largest board passes the limits, as its time then shows; what nobody could send back does not.
    with pytest.raises(Ended):
        service.think(Ticket(-1), ["." * 625], None)
    with pytest.raises(UserError, match="the state would have 21333"):
        service.think(Ticket(60), ["." * 625] * 2, None)
    with pytest.raises(Ended):
        service.think(Ticket(-1), [nine], None)
    assert service.joining.passes == 2
    service.close()


def test_a_fault_of_the_server_is_one_line_too(make, monkeypatch):
    service = make()
    monkeypatch.setattr(service, "about", lambda: 1 / 0)
    (answer,) = ask(build_app(service), ("GET", "/v1/models", {}))
    assert answer.status_code == 500 and "the server failed" in line(answer)["error"]


# --- the command


def test_the_command_says_what_is_wrong(capsys, weights, tmp_path):
    def fault(*arguments: str) -> str:
        assert cli.main(["serve", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "trm serve MODEL..." in fault()
    assert "--port is 70000" in fault("mini", "--port", "70000")
    assert "holds no page" in fault("mini", "--site", str(tmp_path))
    for damaged in ("{", "[1]", '{"a": 1}', '[{"x": 1}]'):
        (tmp_path / "models.json").write_text(damaged)
        said = fault("mini", "--site", str(tmp_path))
        assert "models.json is " in said and "write the page again with `trm page`" in said
    assert "--rows is 0" in fault("mini", "--rows", "0")
    assert "cannot listen at 256.1.1.1" in fault(str(weights), "--host", "256.1.1.1")


def figure(client: httpx.Client, name: str) -> int:
    return int(re.search(rf"^{name} (\d+)$", client.get("/metrics").text, flags=re.MULTILINE)[1])


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_real_server_from_its_start_to_its_end(weights):
    command = [sys.executable, "-m", "trm", "serve", str(weights), "--port", "0", "--steps", "1000000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = re.match(r"http://127\.0\.0\.1:\d+", process.stderr.readline())[0]
        with httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(1) as pool:
            wait_until(lambda: client.get("/healthz").status_code == 200)
            assert client.post("/v1/solve", json={"puzzles": PUZZLES}).json()["model"] == "four"

            # A client that goes away stops its work, whether it watches or waits.
            endless = {"effort": {"steps": 1_000_000, "early_stop": False}}
            with client.stream("POST", "/v1/steps", json={"puzzle": PUZZLES[0], **endless}) as watched:
                lines = watched.iter_lines()
                assert next(lines) == "event: step"
                assert figure(client, "trm_requests_at_work") == 1
            wait_until(lambda: figure(client, "trm_requests_at_work") == 0)
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/solve", json={"puzzles": [PUZZLES[0]], **endless}, timeout=0.3)
            wait_until(lambda: figure(client, "trm_requests_at_work") == 0)
            assert figure(client, "trm_abandoned_total") == 2
            passes = figure(client, "trm_forward_passes_total")
            time.sleep(0.1)
            assert figure(client, "trm_forward_passes_total") == passes

            # What is in flight is answered; nobody else is let in.
            body = {"puzzles": [PUZZLES[0]], "effort": {"steps": 1000, "early_stop": False}}
            flying = pool.submit(httpx.post, f"{address}/v1/solve", json=body, timeout=60)
            wait_until(lambda: figure(client, "trm_requests_at_work") == 1)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: _closed(address))
            assert flying.result().json()["answers"][0]["steps"] == 1000
        assert process.wait(20) == 0 and process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def _closed(address: str) -> bool:
    try:
        httpx.get(f"{address}/healthz")
    except httpx.TransportError:
        return True
    return False
