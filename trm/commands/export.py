"""`trm export`: a model as ONNX graphs."""

from pathlib import Path

from tyro.conf import Positional

from trm.commands.common import at_least, console, dump
from trm.errors import UserError

_CHECK = 8  # puzzles, by default


def export(
    model: Positional[str] = "",
    /,
    *,
    out: Path | None = None,
    board: str = "",
    data: str = "",
    check: int = _CHECK,
    json: bool = False,
    original: bool = False,
) -> int:
    """Write a model as ONNX graphs, for callers without PyTorch; or for the original code.

    The folder holds a supervision step, its parts (a latent update and an answer update), and model.json,
    which says how to call them: docs/EXPORT.md solves a puzzle with them in a few lines. The graphs are
    checked against PyTorch over all steps of some puzzles before anything is written.

    For example:
      trm export mini --out exported/mini
      trm export runs/mini --out exported/run --data runs/mini/data/test.csv --check 100

    Args:
        model: Weights: a model folder, a training run, bundled weights by name, or a hub repository.
        out: Folder to write; an older export there is replaced.
        board: A puzzle of the size to export for, where weights serve boards of every size. Their graphs do
            so too; this is the size that they are checked on.
        data: Puzzles to check on, as for trm eval. Default: some that the family makes.
        check: Number of puzzles to check on.
        json: Print the result of the check as JSON.
        original: Write a checkpoint for the original code instead: trm original export, whose help says more.
    """
    if not model or out is None:
        raise UserError("give a model and a folder: trm export MODEL --out FOLDER")
    if original:
        if board or data or json or check != _CHECK:
            raise UserError("with --original leave out --board, --data, --check and --json")
        from trm.commands.original import export as to_original

        return to_original(model, out=out)
    at_least(1, check=check)
    if out.exists() and not (out / "model.json").is_file() and any(out.iterdir()):
        raise UserError(f"{out} holds something other than an export: give a new folder")
    from trm import export as work
    from trm import pretrained
    from trm.config import ComputeConfig
    from trm.data import sources

    work.needed()
    boards = pretrained.fitting(pretrained.find(model)[1], board) if board else None
    if board and boards is None:
        raise UserError(f"{model} does not fit the board {board!r}")
    found = pretrained.load(model, ComputeConfig(device="cpu", kernels="torch"), boards)
    screen = console(stderr=True)
    puzzles = sources.read(data, found.family, check) if data else work.example_puzzles(found, check)
    made = work.export(found, out, puzzles, lambda line: screen.print(f"{line} ...", style="dim"))
    if json:
        print(dump({**made._asdict(), "folder": str(out)}))
        return 0
    print(
        f"{out}: differs from PyTorch by at most {made.largest:.1e} in one of {made.steps} steps; "
        f"{made.answers_alike} of {made.puzzles} answers are the same"
    )
    print(made.board)
    return 0
