"""`trm page`: a static site that shows models think."""

from pathlib import Path

from tyro.conf import Positional

from trm.commands.common import at_least, console
from trm.errors import UserError


def page(models: Positional[tuple[str, ...]] = (), /, *, out: Path | None = None, check: int = 4) -> int:
    """Write a web page that runs models in the browser and shows them think.

    It needs no server but one for static files, and no network once it is loaded.

    For example:
      trm page mini sudoku-9x9 maze-30x30 --out site
      python -m http.server --directory site

    Args:
        models: Weights, each a model folder, a training run, bundled weights by name, or a hub repository.
            The page opens with the first.
        out: Folder to write; files of an older page are replaced.
        check: Number of puzzles on which every export is checked.
    """
    if not models or out is None:
        raise UserError("give models and a folder: trm page MODEL... --out FOLDER")
    at_least(1, check=check)
    if out.exists() and not (out / "models.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something other than a page: give a new folder")
    from trm import page as work
    from trm import pretrained
    from trm.config import ComputeConfig

    names = [Path(name).name for name in models]
    if len(set(names)) < len(names):
        raise UserError("two of the models have the same name: rename a folder")
    compute = ComputeConfig(device="cpu", kernels="torch")
    found = [(name, pretrained.load(model, compute)) for name, model in zip(names, models, strict=True)]
    screen = console(stderr=True)
    size = work.build(found, out, check, lambda line: screen.print(f"{line} ...", style="dim"))
    print(f"{out}: {size / 1e6:.1f} MB; to look at it: python -m http.server --directory {out}")
    return 0
