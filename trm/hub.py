"""Models out to the Hugging Face hub, with a card that says what they are, and back.

A repository is a model folder as it stands (see `pretrained`), and its card. Only the files of such a folder
go either way, none of them can run code, and what a recipe says of places on your own machine stays there.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from trm import pretrained
from trm.data.sources import HUB_FILES
from trm.errors import UserError, first_line
from trm.files import full_disk_is_a_user_error, new_folder, read_json
from trm.pretrained import FILES, PretrainedConfig

CARD = "README.md"
_NAMES = {"trm": "TRM", "candidates": "TRM of candidates", "hrm": "HRM", "transformer": "transformer"}
_TRM = """\
@misc{jolicoeur2025less,
  title = {Less is More: Recursive Reasoning with Tiny Networks},
  author = {Jolicoeur-Martineau, Alexia},
  year = {2025},
  eprint = {2510.04871},
  archivePrefix = {arXiv}
}"""
_HRM = """\
@misc{wang2025hierarchical,
  title = {Hierarchical Reasoning Model},
  author = {Wang, Guan and Li, Jin and Sun, Yuhao and Chen, Xing and Liu, Changling and Wu, Yue and
            Lu, Meng and Song, Sen and Abbasi Yadkori, Yasin},
  year = {2025},
  eprint = {2506.21734},
  archivePrefix = {arXiv}
}"""


def push(
    name: str | Path,
    repo: str,
    private: bool = False,
    licence: str = "apache-2.0",
    figures: Sequence[Path] = (),
) -> str:
    """Upload a model (of a run, its best weights) to the hub, and return its address.

    A card of the folder's own (README.md) goes with it; where there is none, `card` writes it.

    Args:
        name: what `pretrained.load` loads.
        repo: ORG/NAME; it is made where it is not there yet.
        private: make it one that nobody else sees.
        licence: of the weights, by the hub's name for it.
        figures: reports of `trm eval --json`, for the card.

    Raises UserError where there is no such model, or the hub does not take it.
    """
    text = card_of(name, repo, licence, figures)
    folder, config = pretrained.find(name)
    with tempfile.TemporaryDirectory() as place:
        draft = Path(place)
        for file in FILES:
            if (folder / file).exists():
                shutil.copyfile(folder / file, draft / file)
        values = json.dumps(_public(config).model_dump(mode="json"), indent=2)
        (draft / pretrained.CONFIG).write_text(values + "\n", encoding="utf-8")
        (draft / CARD).write_text(text, encoding="utf-8")
        try:
            api = huggingface_hub.HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            # What an earlier version had and this one has not would be taken for a part of it.
            return str(
                api.upload_folder(
                    repo_id=repo,
                    folder_path=draft,
                    delete_patterns=list(FILES),
                    commit_message=f"Upload by trm push: {config.model.kind} for {config.family.name}",
                )
            )
        except Exception as error:  # the hub client raises many kinds
            raise UserError(f"the hub did not take {repo}: {_reason(error)}") from None


def pull(repo: str, folder: Path, revision: str = "", force: bool = False) -> PretrainedConfig:
    """Download a model into a folder of your own, once it has been found whole.

    Args:
        repo: ORG/NAME.
        folder: new, or empty.
        revision: a branch, tag or commit. Default: the newest.
        force: download again what the cache has.

    Raises UserError where the hub does not give it, it is damaged, or the folder holds something.
    """
    _check_repo(repo)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: give the name of a new one with --out")
    found = pretrained.download(repo, revision, force, more=(CARD,))
    try:
        config = pretrained.load(found).config
    except UserError as error:
        raise UserError(f"{repo} is not whole: {error}; download it again with --force") from None
    with full_disk_is_a_user_error(f"{folder} was not written"), new_folder(folder) as draft:
        for file in (*FILES, CARD):
            if (found / file).exists():
                shutil.copyfile(found / file, draft / file)
    return config


def card_of(name: str | Path, repo: str, licence: str = "apache-2.0", figures: Sequence[Path] = ()) -> str:
    """The card that `push` uploads: the folder's own, or else the one that `card` writes."""
    _check_repo(repo)
    reports = [_report(path) for path in figures]
    found = pretrained.load(name)  # which nobody should find damaged later
    parameters = sum(weight.numel() for weight in found.model.parameters())
    own, config = found.folder / CARD, found.config
    if own.exists() and not figures:
        return own.read_text(encoding="utf-8")
    return card(config, parameters, repo, licence, reports)


def card(
    config: PretrainedConfig,
    parameters: int,
    repo: str,
    licence: str = "apache-2.0",
    reports: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The model card: what it solves and how well, how it was made, how to use it; Markdown with metadata.

    Figures stand here with n and interval, and only where they are known: those of validation puzzles, on
    which weights are chosen, and those of `reports` (of `trm eval --json`).
    """
    family, model, about = config.family.build(), config.model, config.about
    recipe = about.get("recipe", {})
    boards = f" on boards of {family.board[0]} x {family.board[1]}" if family.board else ""
    boards = " on boards of every size" if model.any_board else boards
    name = f"{_NAMES[model.kind]} for {config.family.name} puzzles{boards}"
    rows = list(_figures(about, reports))
    lines = [
        _metadata(config, repo, licence, rows),
        f"# {repo.split('/')[1]}",
        f"{'An' if name.startswith('HRM') else 'A'} {name}: {parameters:,} parameters, width {model.width}, "
        f"T = {model.T}, n = {model.n}, {config.steps} supervision steps. It starts from a first answer and "
        "refines it step by step, until it believes it.",
        "## How well",
    ]
    if rows:
        table = ["| puzzles | n | all cells right [95 %] | cells right |", "|---|---|---|---|"]
        table += [f"| {what} | {n:,} | {exact} | {cells} |" for what, n, exact, cells, _ in rows]
        lines.append("\n".join(table))
    else:
        lines.append("No figures are known: measure it with `trm eval`.")
    lines.append(f"## How it was made\n\n{_making(config, recipe)}")
    lines.append(f"## How to use it\n\n{_usage(config, repo)}")
    lines.append(
        "It knows puzzles of this family alone, and an answer can be wrong: where the rules can tell, "
        "`verified` says so."
    )
    lines.append(f"## Licence\n\n`{licence}`")
    hrm, both = model.kind == "hrm", f"{_TRM}\n\n{_HRM}"
    lines.append(f"## Citation\n\n```bibtex\n{both if hrm else _TRM}\n```")
    return "\n\n".join(lines) + "\n"


def _metadata(config: PretrainedConfig, repo: str, licence: str, rows: Sequence[tuple]) -> str:
    """The head of the card, by which the hub shows, finds and counts it."""
    data = config.about.get("recipe", {}).get("data", {})
    used = [str(data.get(name, "")).removeprefix("hub:") for name in ("train", "validation")]
    sets = sorted({HUB_FILES[name].repo for name in used if name in HUB_FILES})
    kind = {"trm": "trm", "candidates": "trm", "hrm": "hrm"}.get(config.model.kind)
    values: dict[str, Any] = {
        "library_name": "trm",
        "license": licence,
        "pipeline_tag": "other",
        "tags": ["recursive-reasoning", *([kind] if kind else []), config.family.name, "puzzles"],
    }
    if sets:
        values["datasets"] = sets
    if rows:
        task = {"type": "other", "name": config.family.name}
        results = [
            {
                "task": task,
                "dataset": {"type": config.family.name, "name": f"{what} (n = {n})"},
                "metrics": [{"type": "accuracy", "name": "all cells right", "value": round(value, 6)}],
            }
            for what, n, _, _, value in rows
        ]
        values["model-index"] = [{"name": repo.split("/")[1], "results": results}]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _figures(about: Mapping[str, Any], reports: Sequence[Mapping[str, Any]]) -> Any:
    """Rows of the table: what, n, exact with its interval, cells, and the exact share itself."""
    if found := about.get("validation"):
        exact = {"value": found["exact_accuracy"], "low": found["exact_low"], "high": found["exact_high"]}
        yield _row("validation, on which the weights were chosen", found["n"], exact, found["cell_accuracy"])
    for report in reports:
        for name, figures in report["weights"].items():
            shares = figures.get("all_steps") or figures["early_stop"]
            way = "all steps" if figures.get("all_steps") else "stopping early"
            what = f"{Path(str(report['data'])).name}, {name} weights, {way}"
            yield _row(what, report["n"], shares["exact"], shares["cells"]["value"])


def _row(what: str, n: int, exact: Mapping[str, float], cells: float) -> tuple[str, int, str, str, float]:
    value, low, high = (100 * exact[name] for name in ("value", "low", "high"))
    return what, int(n), f"{value:.2f} % [{low:.2f}, {high:.2f}]", f"{100 * cells:.2f} %", exact["value"]


def _making(config: PretrainedConfig, recipe: Mapping[str, Any]) -> str:
    about = config.about
    if "original" in about:
        theirs = about["original"]
        first = (
            f"Taken over by `trm import` from a checkpoint of the original code, `{theirs['file']}` "
            f"(sha256 {theirs['sha256']})."
        )
    elif recipe:
        first = f"Recipe `{recipe['name']}`, seed {recipe['seed']}, batch {recipe['train']['batch']}"
        first += f", {about['step']:,} optimizer steps" if "step" in about else ""
        first += f", {about['training_seconds']:,.0f} s" if "training_seconds" in about else ""
        decay = recipe["ema"]["decay"]
        first += f"; the weights are averages (decay {decay})." if decay else "."
    else:
        return "The weights do not say."
    code = f"trm {about.get('trm', '?')}" + (f", commit `{about['commit']}`" if about.get("commit") else "")
    return f"{first} Code: {code}. `config.json` holds the whole recipe (`about.recipe`)."


def _usage(config: PretrainedConfig, repo: str) -> str:
    group = config.family.build().commands
    if group:
        shell = (
            f"pip install trm\ntrm {group} eval {repo} --data FILE --submission submission.json\n"
            f"trm {group} solve new_task.json --model {repo}"
        )
        return f"```\n{shell}\n```"
    python = (
        f'import trm\n\nsolver = trm.load("{repo}")\nanswer = solver.solve(puzzle)[0]  # a text, row by row\n'
    )
    python += "print(answer.answer, answer.verified)"
    shell = f"pip install trm\ntrm solve PUZZLE --model {repo}"
    return f"```python\n{python}\n```\n\n```\n{shell}\n```"


def _public(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration without the folders of your own machine: files keep their names alone."""
    about = json.loads(json.dumps(config.about))
    recipe = about.get("recipe", {})
    for section, options in (("data", type(config.family).data.paths), ("train", ("start_from",))):
        given = recipe.get(section, {})
        for option in options:
            parts = [part.strip() for part in str(given.get(option) or "").split(",")]
            if option in given:
                given[option] = ",".join(_named(part) for part in parts)
    return config.model_copy(update={"about": about})


def _named(path: str) -> str:
    """A name of the hub, of a package or of bundled weights as it is; of a path, its last part."""
    local = Path(path).is_absolute() or path.startswith((".", "~")) or path.count("/") > 1
    return Path(path).name if local and ":" not in path else path


def _report(path: Path) -> dict[str, Any]:
    values = read_json(path)
    try:
        for figures in values["weights"].values():
            shares = figures.get("all_steps") or figures["early_stop"]
            _row(str(values["data"]), values["n"], shares["exact"], shares["cells"]["value"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} is not a report of `trm eval --json`") from None
    return values


def _check_repo(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{repo!r} is not a repository name: {first_line(error)}") from None
    if repo.count("/") != 1:
        raise UserError(f"{repo!r} is not a repository name: write ORG/NAME")


def _reason(error: Exception) -> str:
    """What the hub has against it, and what to do."""
    said = first_line(error)
    if error.__cause__ is not None:
        said = f"{said.removesuffix('.')}: {first_line(error.__cause__)}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
        return f"{said}; log in with `hf auth login`, or set HF_TOKEN, as one who may write there"
    return said
