"""Exported graphs: every kind of model and mixing, against the model itself.

Torch takes seconds to trace each, so `make test-page` does it, whose page is made of such graphs.
"""

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pages import ROOT
from untrained import FREE, KINDS, drawn, made

from trm import cli, export, pretrained
from trm.errors import UserError
from trm.models.candidates import Candidates
from trm.models.embedding import OUT
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.sudoku.config import SudokuConfig


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[str], tuple[Path, export.Check]]:
    """The graphs of a kind and how they were checked; tracing them takes seconds, so each is traced once."""

    @functools.cache
    def folder(kind: str) -> tuple[Path, export.Check]:
        found = made(*FREE[kind]) if kind in FREE else made(KINDS[kind])
        out = tmp_path_factory.mktemp("exported") / "out"
        return out, export.export(found, out, drawn(found))

    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_the_same_as_pytorch(kind: str, exported):
    out, check = exported(kind)
    assert check.answers_alike == check.puzzles == 3
    assert 0 < check.largest < 1e-4
    about = json.loads((out / "model.json").read_text())
    assert about["check"]["largest"] == check.largest
    assert not about["any_board"]
    assert about["signs"][2] == {"text": "1", "kind": "symbol"}
    ids = "puzzle_ids" in about["graphs"]["step"]["inputs"]
    assert ids == ("puzzle_width" in KINDS[kind])
    assert ("z" in about["start"]) == (kind == "hrm with puzzle embeddings")
    for path in out.glob("*.onnx"):
        graph = onnx.load(path).graph
        for value in [*graph.input, *graph.output]:
            sizes = value.type.tensor_type.shape.dim
            assert sizes[0].dim_param, f"{value.name}: the batch is free"
            assert all(size.dim_param or size.dim_value > 0 for size in sizes), "no axis is empty"


@pytest.mark.parametrize("kind", FREE)
def test_graphs_of_weights_for_every_board_take_other_boards(kind: str, exported):
    options, family = FREE[kind]
    folder, check = exported(kind)
    assert check.answers_alike == 3
    about = json.loads((folder / "model.json").read_text())
    assert about["any_board"]
    other = MazeConfig(height=6, width=4) if kind == "convolution" else SudokuConfig(box_rows=2, box_cols=2)
    larger = made(options, other)
    larger.model.load_state_dict(made(options, family).model.state_dict())
    view, puzzles = export.View(larger.model), drawn(larger, 2)
    runner = export.Runner(folder, about)
    with torch.inference_mode():
        tokens_BL = torch.from_numpy(puzzles.tokens_NL).long()
        state = larger.model.initial_state(2)
        values = {
            "tokens": tokens_BL.view(2, *view.cells).numpy(),
            "y": state.y_BSD.reshape(2, *view.positions, -1).numpy(),
            "z": state.z_BSD.reshape(2, *view.positions, -1).numpy(),
        }
        state, out = larger.model.step(state, larger.model.encode(tokens_BL, tokens_BL[:, 0]))
    for calls in (["step"], about["calls"]):
        got = runner.call(calls, values)
        np.testing.assert_allclose(got["logits"], out.logits_BLV, atol=1e-4)
        np.testing.assert_allclose(got["halt"], out.halt_B, atol=1e-4)
        np.testing.assert_allclose(got["y"].reshape(state.y_BSD.shape), state.y_BSD, atol=1e-4)
        if kind == "candidates":
            np.testing.assert_allclose(got["conflict"], out.conflict_BL, atol=1e-4)
    assert about["searches"] == (kind == "candidates")


def test_a_negative_token_rules_symbols_out(exported):
    found, (folder, _) = made(*FREE["candidates"]), exported("candidates")
    runner = export.Runner(folder, json.loads((folder / "model.json").read_text()))
    model, view = found.model, export.View(found.model)
    assert isinstance(model, Candidates)
    tokens_BL = torch.ones(1, 36, dtype=torch.long)
    tokens_BL[0, 3] = 4
    kind_BLN = model.kinds_of(tokens_BL).view(1, 36, 6)
    tokens_BL[0, 7], tokens_BL[0, 35] = -0b000101, -0b100000
    kind_BLN[0, 7, [0, 2]] = kind_BLN[0, 35, 5] = OUT
    with torch.inference_mode():
        state = model.initial_state(1)
        values = {"tokens": tokens_BL.view(1, *view.cells).numpy()}
        values |= {n: v.reshape(1, *view.positions, -1).numpy() for n, v in zip("yz", state, strict=True)}
        _, out = model.step(state, model.encode_kinds(kind_BLN.flatten(1)))
        _, open_ = model.step(state, model.encode(tokens_BL.clamp_min(1), tokens_BL[:, 0]))
    got = runner.call(["step"], values)["logits"]
    np.testing.assert_allclose(got, out.logits_BLV, atol=1e-4)
    assert np.abs(got - open_.logits_BLV.numpy()).max() > 0.01  # and that makes a difference


@pytest.mark.parametrize("logit", [-120.0, 16.0])
def test_a_network_that_is_almost_sure_says_so_as_precisely_as_in_pytorch(
    logit: float, exported, tmp_path, monkeypatch
):
    """The graphs are the traced ones, with other weights in the halting head."""
    found, (folder, _) = made(*FREE["convolution"]), exported("convolution")
    torch.nn.init.constant_(found.model.halting_head.bias, logit)
    torch.nn.init.normal_(found.model.halting_head.weight, std=0.1)

    head = found.model.halting_head
    new = {
        tuple(w.shape): onnx.numpy_helper.from_array(w.detach().numpy()) for w in (head.bias, head.weight.T)
    }

    def with_other_weights(part: torch.nn.Module) -> onnx.ModelProto:
        model = onnx.load(folder / f"{part.name}.onnx")
        for weight in model.graph.initializer:  # only those of the halting head have these shapes
            if tuple(weight.dims) in new:
                weight.raw_data = new[tuple(weight.dims)].raw_data
        return model

    monkeypatch.setattr(export, "_exported", with_other_weights)
    assert export.export(found, tmp_path / "out", drawn(found)).largest < 1e-3


def test_graphs_that_differ_are_not_written(exported, tmp_path, monkeypatch):
    found, (folder, _) = made(KINDS["transformer"]), exported("transformer")
    shutil.copytree(folder, tmp_path / "out")
    older = (tmp_path / "out/model.json").read_bytes()
    graph = onnx.load(tmp_path / "out/answer.onnx")
    monkeypatch.setattr(export, "_exported", lambda part: graph)
    with torch.no_grad():
        found.model.get_parameter("answer_head.weight").add_(1)
    with pytest.raises(UserError, match="more than rounding"):
        export.export(found, tmp_path / "out", drawn(found))
    assert (tmp_path / "out/model.json").read_bytes() == older
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_example_of_the_documentation_solves_a_puzzle(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs/EXPORT.md").read_text()
    (command,) = re.findall(r"^trm (export .*)$", text, flags=re.MULTILINE)
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command.split(), "--check", "2"]) == 0
    assert "2 of 2 answers are the same" in capsys.readouterr().out
    size = {path.stem: path.stat().st_size for path in Path("exported/mini").glob("*.onnx")}
    assert size["step"] < 2 * size["answer"], "a step of six updates holds their weights once"
    exec(compile(example, "EXPORT.md", "exec"), {})  # our own text, and the point of the test
    puzzle, answer = capsys.readouterr().out.split()[-2:]
    family = pretrained.find("mini")[1].family.build()
    assert family.verify(family.parse(puzzle), family.parse(answer))
