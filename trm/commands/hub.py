"""`trm push`, `trm pull`: models out to the Hugging Face hub, and back."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from trm.commands.common import dump


def push(
    model: Positional[str],
    repo: Annotated[Positional[str], arg(metavar="ORG/NAME")],
    /,
    *,
    private: bool = False,
    licence: Annotated[str, arg(name="license")] = "apache-2.0",
    figures: tuple[Path, ...] = (),
    dry_run: bool = False,
) -> int:
    """Upload a model to the Hugging Face hub, with a card that says what it is.

    Needs an account: `hf auth login`, or HF_TOKEN. A README.md of the model folder is its card; without one,
    or with --figures, a card is written from what the weights say of themselves. Names of folders on this
    machine stay here.

    For example:
      trm eval runs/mini --data runs/mini/data/test.csv --json > test.json
      trm push runs/mini my-org/sudoku-6x6 --figures test.json
      trm push runs/mini my-org/sudoku-6x6 --dry-run

    Args:
        model: Weights: a model folder, a training run (its best weights), or bundled weights by name.
        repo: The repository; it is made where it is not there yet.
        private: Make it one that nobody else sees.
        licence: Licence of the weights, by the hub's name for it.
        figures: Reports of `trm eval --json`, for the table of the card.
        dry_run: Print the card, and upload nothing.
    """
    from trm import hub

    if dry_run:
        print(hub.card_of(model, repo, licence, figures), end="")
        return 0
    print(hub.push(model, repo, private, licence, figures))
    print(f"now, anywhere: trm solve PUZZLE --model {repo}")
    return 0


def pull(
    repo: Annotated[Positional[str], arg(metavar="ORG/NAME")],
    /,
    *,
    revision: str = "",
    out: Path | None = None,
    force: bool = False,
    json: bool = False,
) -> int:
    """Download a model from the Hugging Face hub into a folder.

    Only the files of a model are taken, which hold numbers and text; no code is run. (Every command that
    takes a model also takes ORG/NAME, or ORG/NAME@REVISION, and keeps it in the hub's cache.)

    For example:
      trm pull my-org/sudoku-6x6
      trm pull my-org/sudoku-6x6 --revision v1 --out models/old

    Args:
        repo: The repository.
        revision: A branch, a tag or a commit. Default: the newest.
        out: The new folder. Default: models/NAME.
        force: Download again what the hub's cache has.
        json: Print its configuration as JSON.
    """
    from trm import hub

    folder = out or Path("models") / repo.rpartition("/")[2]
    config = hub.pull(repo, folder, revision, force)
    if json:
        print(dump({"folder": str(folder)} | config.model_dump(mode="json")))
        return 0
    group = f"{commands} " if (commands := config.family.build().commands) else ""
    print(f"{folder}: {config.model.kind} for {config.family.name}")
    print(f"now: trm {group}solve {'FILE' if group else 'PUZZLE'} --model {folder}")
    return 0
