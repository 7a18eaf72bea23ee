"""Random damage to bytes, text, trees of values, and pictures. The same random.Random gives the same damage."""

from __future__ import annotations

import copy
import random
from typing import Any

# Values that a file or a command line should not have, or seldom has.
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 3, 10**30, -(10**30), 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"),
    "", " ", "~", "~/nowhere", "no", "on", "1e-4", "1e999", "-1", "²", "٣", "1_000", "0x10", "nan", "null", "none",
    "exact", "a" * 500, "../../etc", "/dev/null", "/", ".", "a\x00b", "a\nb", "\udcff", "Ünïcödé 😀", "\x1b[31mred",
    "{}", "[", "!!python/object:os.system {}", "*x", "&x", "=", "a=b", "s3://nowhere", [], {}, [[]], [None], [1, "a"],
    ["exact", "exact"], {"": 1}, {"name": "exact"}, {"a": {"b": {"c": []}}}, {1: 2}, [0] * 50, [-1, -1, -1],
    ["nan", 1, 1], "2001-01-01", [{}], {"name": None},
]  # fmt: skip

# Files that people save under the name of another.
OTHER_FILES = [
    b"", b"\n", b"\x00" * 64, b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456789\n",
    b'{"error": "not found"}', b"\x89PNG\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\x00" * 40, b"GGUF" + b"\x03" * 60,
    b"PK\x03\x04" + b"\x00" * 40, b"PK\x05\x06" + b"\x00" * 18, b"\xff\xd8\xff\xe0" + b"\x10" * 30,
    b"\x80\x02}q\x00.", b"\x80\x02cposix\nsystem\nU\x04trueq\x00\x85Rq\x01.", b"\x1f\x8b\x08\x00" + b"\x00" * 20,
    "ÿþ".encode("utf-16"), b"ustar" * 200, b"\xff" * 2000, b"[]", b"{}", b"null", b"3", b'{"a": [}',
]  # fmt: skip


def damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bytes changed in one way: cut off, bits flipped, a part removed, repeated or overwritten, or another file."""
    kind = rng.randrange(7)
    if kind == 0 or len(content) < 4:
        return rng.choice(OTHER_FILES)
    first = rng.randrange(len(content))
    last = min(len(content), first + rng.choice((1, 2, 8, 100, 5000)))
    if kind == 1:
        return content[:first]
    if kind == 2:
        return content[:first] + content[last:]
    if kind == 3:
        return content[:last] + content[first:]
    if kind == 4:
        return content[:first] + rng.randbytes(last - first) + content[last:]
    changed = bytearray(content)
    # Headers are short and decide most: half of the flips hit the first bytes.
    reach = len(changed) if kind == 5 else min(len(changed), 200)
    for _ in range(rng.choice((1, 1, 3, 20))):
        changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def damaged_text(rng: random.Random, text: str) -> bytes:
    """Lines removed, repeated, swapped, indented or joined, characters replaced, or bytes as in `damaged_bytes`."""
    lines = text.splitlines()
    if not lines or rng.random() < 0.3:
        return damaged_bytes(rng, text.encode())
    for _ in range(rng.choice((1, 1, 2, 5))):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0:
            lines[i] = ""
        elif kind == 1:
            lines.insert(j, lines[i])
        elif kind == 2:
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 3:
            lines[i] = rng.choice(("  ", "\t", "- ", "? ", "}")) + lines[i]
        elif kind == 4:
            lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
        else:
            place = rng.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:place] + rng.choice(":{}[],'\"&*#?|-<>=!%@`\\²\u2028é\x00 ") + lines[i][place:]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damaged_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of nested dicts and lists with one to three values replaced, removed, renamed or repeated."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(ODD_VALUES)
        parent, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice([str(key) + "s", str(key)[:-1], "", 5, None])] = parent.pop(key)
        elif kind == 2 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return tree


def _places(tree: Any):
    """(parent, key) of every value below `tree`."""
    pairs = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in pairs:
        yield tree, key
        yield from _places(value)
