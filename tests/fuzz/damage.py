"""Damaged copies of good files: byte by byte, and by what the bytes mean.

`damaged` is a hypothesis strategy from a set of files to the same set with one or two of them damaged. Bytes
are flipped, cut, repeated, or replaced by what parsers are known to stumble over. Where a file has structure
(JSON, YAML, the header of a safetensors or `.npy` file, the pickle in a zip archive), a part of it is swapped
for an extreme value and the file written again as it should be, so that what follows the first check is
reached too.
"""

import ast
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import yaml

Files = dict[str, bytes]
Draw = Callable[[st.SearchStrategy[Any]], Any]

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
EXTREMES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3,
        7,
        255,
        256,
        1000,
        2**31 - 1,
        2**31,
        2**63 - 1,
        2**63,
        -(2**63),
        10**12,
        10**30,
    ),
    *(0.0, -0.5, 0.5, 1e-300, 1e308, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        " ",
        "0",
        "x" * 3000,
        "\0",
        "a\0b",
        "\ud800",
        "é",
        "\u202e",
        "[/]",
        "[red]x",
        "\x1b[2J",
        "../../x",
        "/dev/zero",
        "\n\n",
    ),
    *([], {}, [[]], [None], {"": ""}, {"name": "x"}, [1, 2, 3], [0] * 200, ["x"] * 300, DEEP),
]
TOKENS = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\x1b[2J",
        b"\r",
        b"\n\n\n",
        b'"',
        b"'",
        b"[" * 2000,
        b'{"a":' * 2000,
        b"/" * 300,
    ),
    *(
        b" " * 3000,
        b",",
        b"9" * 5000,
        b"1e999",
        b"-1",
        b"NaN",
        b"&a [*a]",
        b"*a",
        b"!!python/object/apply:os.system [x]",
        b"\xed\xa0\x80",
    ),
    *(
        b"\x00" * 64,
        b"\xff" * 8,
        b"PK\x03\x04",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04",
        b"question,answer\n",
        b"\xe2\x80\xa8",
        b"2001-99-99",
    ),
]
GLOBALS = [
    ("os", "system"),
    ("builtins", "eval"),
    ("builtins", "bytearray"),
    ("torch", "Size"),
    ("torch", "load"),
]


@st.composite
def damaged(draw: Draw, files: Files, names: tuple[str, ...]) -> Files:
    """The files with one or two of those named damaged, some of them several times."""
    new = dict(files)
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
        structure = _structure(name)
        for _ in range(draw(st.integers(1, 2))):
            if structure is not None and draw(st.integers(0, 3)):
                try:
                    new[name] = structure(draw, new[name])
                    continue
                except Exception:  # its structure is damaged already, and its bytes can still be more so
                    pass
            new[name] = _bytes(draw, new[name])
    return new


def _bytes(draw: Draw, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    end = min(len(data), at + draw(st.sampled_from((1, 1, 2, 4, 8, 40))))
    match draw(st.sampled_from(("flip", "cut", "cut out", "insert", "replace", "repeat", "copy", "empty"))):
        case "flip" if at < len(data):
            return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "cut out":
            return data[:at] + data[end:]
        case "insert":
            return data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
        case "replace":
            return data[:at] + draw(st.sampled_from(TOKENS)) + data[end:]
        case "repeat":
            return data[:at] + data[at:end] * draw(st.integers(2, 500)) + data[end:]
        case "copy":
            other = draw(st.integers(0, len(data)))
            return data[:at] + data[other : other + end - at] + data[end:]
        case "empty":
            return b""
    return data


# --- structure


def _structure(name: str) -> Callable[[Draw, bytes], bytes] | None:
    last = name.rpartition("/")[2]
    ends = last.rpartition(".")[2]
    by_end = {
        "json": _json,
        "yaml": _yaml,
        "jsonl": _lines,
        "safetensors": _safetensors,
        "npy": _npy,
        "pt": _zip,
    }
    by_end |= {"csv": _table, "txt": _table, "metadata": _pickle, "distcp": _archives}
    return by_end.get(ends)


def _swapped(draw: Draw, value: Any) -> Any:
    """A copy of plain values with one of them, somewhere inside, swapped for something else."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 9)):
        copy = value.copy()
        keys = list(copy) if isinstance(copy, dict) else range(len(copy))
        key = draw(st.sampled_from(list(keys)))
        match draw(st.sampled_from(("within", "within", "within", "within", "gone", "more"))):
            case "within":
                copy[key] = _swapped(draw, copy[key])
            case "gone":
                del copy[key]
            case "more" if isinstance(copy, list):
                copy[key:key] = [copy[key]] * draw(st.sampled_from((1, 30)))
            case "more":
                copy[
                    draw(st.sampled_from(("task", "x", "", "name", "compute", 7, "data", "generate_train")))
                ] = copy[key]
        return copy
    return draw(st.sampled_from(EXTREMES))


def _json(draw: Draw, data: bytes) -> bytes:
    return json.dumps(_swapped(draw, json.loads(data))).encode()


def _lines(draw: Draw, data: bytes) -> bytes:
    values = _swapped(draw, [json.loads(line) for line in data.splitlines()])
    return b"".join(
        json.dumps(each).encode() + b"\n" for each in (values if isinstance(values, list) else [values])
    )


def _yaml(draw: Draw, data: bytes) -> bytes:
    return yaml.safe_dump(_swapped(draw, yaml.safe_load(data)), sort_keys=False).encode()


def _table(draw: Draw, data: bytes) -> bytes:
    rows = _swapped(draw, [line.split(",") for line in data.decode("utf-8", "surrogateescape").splitlines()])
    rows = rows if isinstance(rows, list) else [rows]
    lines = (",".join(map(str, row)) if isinstance(row, list) else str(row) for row in rows)
    return "".join(line[:5000] + "\n" for line in lines).encode("utf-8", "surrogatepass")


def _safetensors(draw: Draw, data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if draw(st.booleans()):
        values = json.loads(header)
        if draw(st.booleans()):
            one = values[draw(st.sampled_from([name for name in values if name != "__metadata__"]))]
            one["dtype"] = draw(
                st.sampled_from(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E5M2", "C64", "F4", "X"))
            )
            if draw(st.booleans()):  # as many bytes
                one["shape"] = [one["data_offsets"][1] - one["data_offsets"][0]]
        else:
            values = _swapped(draw, values)
        header = json.dumps(values).encode()
    else:  # numbers
        kinds = struct.pack("<f", draw(st.sampled_from((float("nan"), float("inf"), 3e38, -3e38, 1e-40))))
        kinds = draw(st.sampled_from((kinds, b"\xff" * 8, b"\x7f" * 8)))
        at = draw(st.integers(0, max(0, len(body) // 4 - 1))) * 4
        count = draw(st.sampled_from((1, 8, 100_000)))
        body = (body[:at] + kinds * count)[: len(body)] + body[at + len(kinds) * count :]
    return len(header).to_bytes(8, "little") + header + body


def _npy(draw: Draw, data: bytes) -> bytes:
    if draw(st.booleans()):
        array = np.load(io.BytesIO(data), allow_pickle=False)
        kind = draw(st.sampled_from(("u1", "i1", ">i2", "i4", "i8", "u8", "f4", "?", "c8", "U3", "M8[s]")))
        extreme = draw(st.sampled_from((0, 1, 5, 255, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))))
        array = array.real.astype(np.int64) if array.dtype.kind in "iufcb" else np.arange(8)
        if array.size:
            array.flat[draw(st.integers(0, array.size - 1))] = extreme
        array = draw(
            st.sampled_from((array, array[:0], array.T, array.ravel(), array[None], np.asfortranarray(array)))
        )
        with np.errstate(all="ignore"):
            array = array.astype(kind)
        out = io.BytesIO()
        np.save(out, array)
        return out.getvalue()
    length = int.from_bytes(data[8:10], "little")
    header = ast.literal_eval(data[10 : 10 + length].decode("latin-1").strip())
    key = draw(st.sampled_from(("descr", "shape", "fortran_order", "extra")))
    values = {
        "descr": ("<i8", "|u1", "|O", "<f8", "|V8", [("a", "<i4")], "<i99", 7, "|S1000000000", "<U9", "m8"),
        "shape": (
            (10**12,),
            (10**12, 16),
            (-1, 16),
            (),
            (2**62, 2**62),
            (3, 0),
            (0,),
            "x",
            (1.5,),
            (10**30, 0),
        ),
    }
    header[key] = draw(st.sampled_from(values.get(key, (True, 1, None))))
    text = repr(header).encode("latin-1") + b"\n"
    return data[:8] + len(text).to_bytes(2, "little") + text + data[10 + length :]


def _zip(draw: Draw, data: bytes) -> bytes:
    """An archive of torch with the pickle in it, or one of its parts, changed; checksums are right."""
    parts = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for each in archive.namelist():
            parts[each] = archive.read(each)
    name = next((each for each in parts if each.endswith("data.pkl")), next(iter(parts)))
    if not draw(st.integers(0, 2)):
        name = draw(st.sampled_from(list(parts)))
    parts[name] = _pickle(draw, parts[name]) if name.endswith("data.pkl") else _bytes(draw, parts[name])
    how = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for each, content in parts.items():
            archive.writestr(each, content)
    return out.getvalue()


def _archives(draw: Draw, data: bytes) -> bytes:
    """Several archives of torch, one after the other: one is changed, and all stay as long as they were."""
    starts = [
        i
        for i in range(len(data))
        if data.startswith(b"PK\x03\x04", i) and data[i + 30 : i + 38] == b"archive/"
    ]
    at = draw(st.sampled_from(starts or [0]))
    new = _bytes(draw, data[at : at + 2000])
    return (data[:at] + new + data[at + 2000 :])[: len(data)].ljust(len(data), b"\0")


def _pickle(draw: Draw, data: bytes) -> bytes:
    """A pickle with one name, number or text in it changed, or any of its bytes."""
    if not draw(st.integers(0, 3)):
        return _bytes(draw, data)
    found = [(op, arg, at) for op, arg, at in pickletools.genops(data)]
    ends = [at for _, _, at in found[1:]] + [len(data)]
    able = [
        i
        for i, (op, _, _) in enumerate(found)
        if op.name
        in ("GLOBAL", "STACK_GLOBAL", "BINUNICODE", "SHORT_BINUNICODE", "BINGET", "REDUCE", "BUILD", "NEWOBJ")
        or op.name.startswith(("BININT", "LONG", "BINPUT", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY", "TUPLE"))
    ]
    at = draw(st.sampled_from(able))
    op = found[at][0].name
    if op == "GLOBAL":
        module, name = draw(st.sampled_from(GLOBALS))
        new = f"c{module}\n{name}\n".encode()
    elif "UNICODE" in op:
        text = draw(
            st.sampled_from(("", "os", "system", "/dev/zero", "../x", "a\0b", "é", "float64", "0", "x" * 500))
        ).encode()
        new = b"X" + len(text).to_bytes(4, "little") + text
    else:
        new = draw(
            st.sampled_from(
                (
                    b"N",
                    b"\x88",
                    b"K\x00",
                    b"K\x03",
                    b"M\xff\xff",
                    b"J\xff\xff\xff\xff",
                    b"J\xff\xff\xff\x7f",
                    b"]",
                    b"}",
                    b")",
                    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
                    b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01",
                    b"h\x00",
                    b"h\xff",
                    b"0",
                    b"2",
                    b"R",
                    b"b",
                    b"r\xff\xff\xff\x00",
                    b"X\xff\xff\xff\x7f",
                    b"B\xff\xff\xff\x7f",
                    b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
                )
            )
        )
    return data[: found[at][2]] + new + data[ends[at] :]
