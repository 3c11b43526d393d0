"""The page that shows a network think: static files, and the models that it opens, put into one folder.

The front end is the JavaScript beside this file; `families/` there holds the rules and the looks of one
family each. A site needs no server of its own: any host of static files will do.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from trm import export
from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, read_json
from trm.pretrained import Pretrained
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.variants import Variants

# The families that the page can draw.
FAMILIES = ("sudoku", "maze", "futoshiki", "grid", "arc")
RUNTIME = "onnxruntime-web"
# The files of the runtime that a browser loads.
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_FRONT_END = (".html", ".css", ".js")
# The worker loads the runtime, which takes longest: it begins before any of the scripts is read.
_BEGIN = '<script>begun = new Worker("worker.js", { type: "module" });</script>'


def build(
    models: Iterable[tuple[str, Pretrained]],
    folder: Path,
    check: int = 4,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Write the site to a folder and return its size in bytes.

    `models` are names and weights; every one is exported and checked on `check` puzzles first. UserError for
    a family that the page does not know, where the runtime or a package is missing, and as `export` does.
    """
    models = list(models)
    for name, found in models:
        if (family := found.config.family.name) not in FAMILIES:
            raise UserError(f"{name}: the page draws {', '.join(FAMILIES)}, not {family}")
    runtime = _runtime()
    export.needed()
    with full_disk_is_a_user_error(f"{folder} is not complete"), tempfile.TemporaryDirectory() as scratch:
        listed: list[dict[str, Any]] = []
        for name, found in models:
            made = Path(scratch) / name
            puzzles = export.example_puzzles(found, check)
            export.export(found, made, puzzles, lambda line, of=name: say(f"{of}: {line}"))
            about = json.loads((made / export.MODEL).read_text(encoding="utf-8"))
            entry = {"name": name, "folder": f"models/{name}/", "about": about}
            if isinstance(found.config.family, ArcConfig):
                about["ids"] = _ids(found.variants(), found.config.family)
            if found.config.family.data().generator() is not None:
                entry["examples"] = [found.family.text(tokens_L) for tokens_L in puzzles.tokens_NL]
            listed.append(entry)
            into = folder / "models" / name
            into.mkdir(parents=True, exist_ok=True)
            (into / export.MODEL).write_text(json.dumps(about), encoding="utf-8")
            for file in _graphs(about):
                shutil.copyfile(made / file, into / file)
        front_end(folder)
        _preload(folder, listed)
        (folder / "vendor").mkdir(exist_ok=True)
        for file in RUNTIME_FILES:
            shutil.copyfile(runtime / file, folder / "vendor" / file)
        for entry in listed:
            del entry["about"]["start"]  # the model's own file has it
        (folder / "models.json").write_text(json.dumps(listed), encoding="utf-8")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _ids(variants: Variants, config: ArcConfig) -> dict[str, int]:
    """The puzzle id of every ARC task that a model knows, as it is and in no other variant."""
    if config.ids == "task":
        return {name: number for number, name in enumerate(variants.names, 1)}
    return {name: variants.ids(name)[0] for name in variants.names}


def models(folder: Path) -> list[dict[str, Any]]:
    """The models of a site as it lists them, each with its name, none where it has no list.

    UserError where the list is damaged.
    """
    path = folder / "models.json"
    if not path.is_file():
        return []
    remedy = "write the page again with `trm page`"
    listed = read_json(path, remedy)
    if not isinstance(listed, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in listed
    ):
        raise UserError(f"{path} is damaged: {remedy}")
    return listed


def front_end(folder: Path) -> None:
    """Write the page itself to a folder: without models, for a server that has some."""
    here = Path(str(resources.files("trm.page")))
    for file in here.rglob("*"):
        if file.suffix in _FRONT_END:
            into = folder / file.relative_to(here)
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, into)


def _preload(folder: Path, listed: list[dict[str, Any]]) -> None:
    """Let the browser fetch at once what it will need: the worker, the scripts and the first model.

    The runtime is left to the worker: it is too large for some caches and would be fetched twice.
    """
    files = [
        entry["folder"] + name for entry in listed[:1] for name in (export.MODEL, *_graphs(entry["about"]))
    ]
    scripts = sorted({*folder.glob("*.js"), *folder.glob("families/*.js")} - {folder / "worker.js"})
    links = [f'<link rel="modulepreload" href="{file.relative_to(folder)}" />' for file in scripts]
    links += [f'<link rel="preload" href="{file}" as="fetch" crossorigin />' for file in files]
    path = folder / "index.html"
    html = path.read_text(encoding="utf-8")
    text = "".join(f"    {link}\n" for link in [_BEGIN, *links])
    charset = '<meta charset="utf-8" />\n'  # which must come first
    path.write_text(html.replace(charset, charset + text), encoding="utf-8")


def _graphs(about: dict[str, Any]) -> list[str]:
    """The files that the page takes: updates one by one, as a whole step would only repeat their weights."""
    return sorted({about["graphs"][call]["file"] for call in about["calls"]})


def _runtime() -> Path:
    """The folder with the browser's runtime: beside the page, or where npm puts it; UserError says how to."""
    places = [
        Path(str(resources.files("trm.page"))) / "vendor",
        Path("node_modules") / RUNTIME / "dist",
    ]
    for place in places:
        if all((place / file).is_file() for file in RUNTIME_FILES):
            return place
    raise UserError(
        f"the page needs {RUNTIME}, which is not here: run `make page`, or `npm install {RUNTIME}@1.22.0` in "
        "this folder"
    )
