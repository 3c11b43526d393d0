"""Small files that claim, or unpack to, more than any memory holds: refused in little memory and little time.

Every bomb goes off in a process of its own with so much address space, so that it cannot hurt the machine,
and what it used is measured: a file must not cost much more than its own size. What a careless reader does
with some of them is tested too, so that they are bombs indeed.
"""

import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import doors
import pytest
import tiny
import torch
import yaml

from trm.errors import UserError
from trm.training import checkpoint

if sys.platform != "linux":
    pytest.skip("memory is limited and measured as Linux does it", allow_module_level=True)
SPACE = 3 * 2**30  # bytes of address space beyond what the process has at the start
MOST = 80 * 2**20  # bytes that a reader may use
SECONDS = 10  # of computing
HUGE = 10**12


def safetensors(tensors: dict[str, dict], body: bytes = b"\0" * 64) -> bytes:
    header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header + body


def npy(shape: tuple, kind: str = "|u1") -> bytes:
    text = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def packed(parts: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def saved(values: object) -> bytes:
    out = io.BytesIO()
    torch.save(values, out)
    return out.getvalue()


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


# --- bombs: each is put among good files, and what then reads them is returned


def _config(folder: Path, **model: object) -> Callable[[], object]:
    doors.make_weights(folder)
    values = json.loads((folder / "config.json").read_text())
    values["model"] |= model
    (folder / "config.json").write_text(json.dumps(values))
    return lambda: doors.read_weights(folder)


def wide_model(folder: Path):
    return _config(folder, width=2**16, heads=1)


def deep_model(folder: Path):
    return _config(folder, layers=HUGE)


def long_prefix(folder: Path):
    return _config(folder, mixing="attention", positions="rope", prefix=HUGE, puzzle_width=16)


def many_puzzles(folder: Path):
    doors.make_weights(folder)
    values = json.loads((folder / "config.json").read_text())
    values["model"] |= {"puzzle_width": 16, "prefix": 1}
    (folder / "config.json").write_text(json.dumps(values | {"puzzles": 2**31}))
    return lambda: doors.read_weights(folder)


def weights_of_nothing(folder: Path):
    doors.make_weights(folder)
    claim = {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}
    (folder / "model.safetensors").write_bytes(safetensors({"w": claim}))
    return lambda: doors.read_weights(folder)


def endless_header(folder: Path):
    doors.make_weights(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    return lambda: doors.read_weights(folder)


def large_config(folder: Path):
    doors.make_weights(folder)
    with (folder / "config.json").open("r+b") as file:
        file.truncate(2**32)  # of zeros, which take no room on the disk
    return lambda: doors.read_weights(folder)


def nested_json(folder: Path):
    doors.make_weights(folder)
    (folder / "config.json").write_text('{"format": 1, "family":' + "[" * 10**7)
    return lambda: doors.read_weights(folder)


def aliases(folder: Path):
    """Nine generations of nine aliases each: a billion values in 300 bytes."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    (folder / "recipe.yaml").write_text(text + "name: *a9\n")
    return lambda: doors.load_config(folder / "recipe.yaml")


def merged_aliases(folder: Path):
    text = "a0: &a0 {k: v}\n"
    text += "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10))
    (folder / "recipe.yaml").write_text(text)
    return lambda: doors.load_config(folder / "recipe.yaml")


def large_recipe(folder: Path):
    with (folder / "recipe.yaml").open("wb") as file:
        file.truncate(2**32)
    return lambda: doors.load_config(folder / "recipe.yaml")


def one_line(folder: Path, name: str = "own.csv"):
    doors.make_tables(folder)
    with (folder / name).open("r+b") as file:
        file.truncate(2**30)
    return lambda: doors.read_rows(folder / name)


def one_line_of_json(folder: Path):
    (folder / "own.jsonl").touch()
    return one_line(folder, "own.jsonl")


def one_line_of_sudoku(folder: Path):
    doors.make_tables(folder)
    with (folder / "sudoku.csv").open("r+b") as file:
        file.truncate(2**30)
    return lambda: doors.sources.read(str(folder / "sudoku.csv"), tiny.TASK)


def spaces_between_cells(folder: Path):
    """Looking for an end of the row from every space on takes as many steps as the square of their number."""
    cells = " ".join(["1", " " * 10**6, "2"])
    (folder / "own.jsonl").write_text(json.dumps({"question": cells, "answer": cells}) + "\n")
    return lambda: doors.read_rows(folder / "own.jsonl") and None


def large_tasks(folder: Path):
    doors.make_arc(folder)
    with (folder / "x_challenges.json").open("r+b") as file:
        file.truncate(2**32)
    return lambda: doors.arc.read(str(folder / "x_challenges.json"))


def many_keys_twice(folder: Path):
    names = [*map(str, range(200_000)), "199999"]
    (folder / "x.json").write_text("{" + ",".join(f'"{name}":1' for name in names) + "}")
    return lambda: doors.arc.read(str(folder / "x.json"))


def _array(folder: Path, field: str, content: bytes):
    doors.make_folder(folder)
    (folder / "sudoku" / "train" / f"all__{field}.npy").write_bytes(content)
    return lambda: doors.sources.read(str(folder / "sudoku" / "train"), tiny.TASK)


def array_of_nothing(folder: Path):
    return _array(folder, "inputs", npy((HUGE, 16)))


def array_without_columns(folder: Path):
    return _array(folder, "puzzle_identifiers", npy((HUGE, 0)))


def array_of_large_items(folder: Path):
    return _array(folder, "inputs", npy((8, 16), "|S2000000000"))


def one_set_many_times(folder: Path):
    doors.make_folder(folder)
    change(folder / "sudoku" / "train" / "dataset.json", b'["all"]', json.dumps(["all"] * 100_000).encode())
    return lambda: doors.sources.read(str(folder / "sudoku" / "train"), tiny.TASK)


def _theirs(folder: Path, content: bytes):
    doors.make_theirs(folder)
    (folder / "step.pt").write_bytes(content)
    return lambda: doors.original.build_original(doors.ARCH, doors.original.load_pt(folder / "step.pt"))


def compressed_tensor(folder: Path):
    parts = unpacked(saved({"w": torch.zeros(4)}))
    name = next(each for each in parts if each.endswith("data/0"))
    return _theirs(folder, packed(parts | {name: bytes(2**27)}))


def compressed_pickle(folder: Path):
    parts = unpacked(saved({"w": torch.zeros(4)}))
    name = next(each for each in parts if each.endswith("data.pkl"))
    return _theirs(folder, packed(parts | {name: parts[name] + bytes(2**27)}))


def repeated_number(folder: Path):
    """A tensor of 10^9 times the same number in memory."""
    return _theirs(folder, saved({"inner.H_init": torch.zeros(1, dtype=torch.bfloat16).expand(10**9)}))


def storage_of_nothing(folder: Path):
    parts = unpacked(saved({"w": torch.zeros(4)}))
    name = next(each for each in parts if each.endswith("data.pkl"))
    new = parts[name].replace(b"K\x04\x85", b"J" + struct.pack("<i", 2**31 - 1) + b"\x85")  # its shape
    assert new != parts[name]
    return _theirs(folder, packed(parts | {name: new}, zipfile.ZIP_STORED))


def bytes_of_nothing(folder: Path):
    class Bytes:
        def __reduce__(self):
            return bytearray, (2**31,)

    return _theirs(folder, saved({"w": Bytes()}))


def other_sizes(folder: Path):
    doors.make_theirs(folder)
    arch = doors.ARCH | {"hidden_size": 2**16, "vocab_size": 2**16}
    return lambda: doors.original.build_original(arch, doors.original.load_pt(folder / "step.pt"))


def _index(folder: Path, content: bytes):
    doors.make_checkpoint(folder)
    (folder / "step-00000001" / ".metadata").write_bytes(content)
    return lambda: doors.read_checkpoint(folder)


def place_in_the_memo(folder: Path):
    return _index(folder, b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".")


def long_bytes(folder: Path):
    return _index(folder, b"\x80\x05\x96" + struct.pack("<Q", 2**31) + b".")


def _part(folder: Path, edit: Callable[[checkpoint.Any], None]):
    doors.make_checkpoint(folder)
    index = checkpoint._read_index(folder / "step-00000001")
    edit(index)
    (folder / "step-00000001" / ".metadata").write_bytes(pickle.dumps(index))
    return lambda: doors.read_checkpoint(folder)


def tensors_in_a_device(folder: Path):
    def edit(index) -> None:
        for part in index.storage_data.values():
            part.relative_path = "/dev/zero"

    return _part(folder, edit)


def manifest_of_a_device(folder: Path):
    doors.make_checkpoint(folder)
    (folder / "step-00000001" / "manifest.json").write_text(json.dumps({".metadata": {}, "/dev/zero": {}}))
    return lambda: doors.read_manifest(folder)


def compressed_part(folder: Path):
    def edit(index) -> None:
        parts = unpacked(saved(torch.zeros(3, 4)))
        name = next(each for each in parts if each.endswith("data/0"))
        bomb = packed(parts | {name: bytes(2**27)})
        for part in index.storage_data.values():
            part.offset, part.length = 0, len(bomb)
        (folder / "step-00000001" / "__0_0.distcp").write_bytes(bomb)

    return _part(folder, edit)


BOMBS = [
    *(
        wide_model,
        deep_model,
        long_prefix,
        many_puzzles,
        weights_of_nothing,
        endless_header,
        large_config,
        nested_json,
    ),
    *(
        aliases,
        merged_aliases,
        large_recipe,
        one_line,
        one_line_of_json,
        one_line_of_sudoku,
        spaces_between_cells,
    ),
    *(
        large_tasks,
        many_keys_twice,
        array_of_nothing,
        array_without_columns,
        array_of_large_items,
        one_set_many_times,
    ),
    *(
        compressed_tensor,
        compressed_pickle,
        repeated_number,
        storage_of_nothing,
        bytes_of_nothing,
        other_sizes,
    ),
    *(place_in_the_memo, long_bytes, tensors_in_a_device, manifest_of_a_device, compressed_part),
]


def peak() -> int:
    """Most bytes of memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_little_memory(call: Callable[[], object], seconds: int = SECONDS) -> tuple[str, int]:
    """How a call ends in a process with so much memory, and how many bytes more it has used."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            signal.alarm(30 * seconds)  # also where it waits
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (space + SPACE, space + SPACE))
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
            before = peak()
            try:
                call()
                end = "done"
            except UserError as error:
                end = f"refused: {error}"
            except BaseException:
                end = traceback.format_exc()
            os.write(writing, f"{max(0, peak() - before)} {end}"[:4000].encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        used, _, end = file.read().partition(" ")
    os.waitpid(child, 0)
    return end or "killed: it took too long, or too much", int(used or 0)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda each: each.__name__)
def test_bombs(bomb: Callable[[Path], Callable[[], object]], tmp_path: Path):
    end, used = in_little_memory(bomb(tmp_path))
    if bomb is spaces_between_cells:  # which are no fault
        assert end == "done"
    else:
        assert end.startswith("refused"), end
    assert used < MOST


@pytest.mark.parametrize(
    ("bomb", "careless"),
    [
        (merged_aliases, lambda folder: yaml.safe_load((folder / "recipe.yaml").read_text())),
        (compressed_tensor, lambda folder: torch.load(folder / "step.pt", weights_only=True)),
        (
            place_in_the_memo,
            lambda folder: pickle.loads((folder / "step-00000001" / ".metadata").read_bytes()),
        ),
    ],
)
def test_the_bombs_are_live(bomb, careless, tmp_path: Path):
    bomb(tmp_path)
    end, used = in_little_memory(lambda: careless(tmp_path), seconds=2)
    assert used > MOST or not end.startswith(("done", "refused"))
