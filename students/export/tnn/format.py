"""The two files of a TNN model: .tnnproto, text that gives the structure, and .tnnmodel, the weights.

The layout follows Tencent/TNN @f0cb08129, version 2 of both (magic 0xFABC0004). The text is a list of parts, each ended
by a comma and usually a quoted line. Weights are little endian and refer to layers by name. The first line has one
field more than TNN reads: the CRC-32 of the weights, by which `read` detects the weights of another file.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swapcore.files import whole_file

from .layers import Graph, Layer, check, kind, numbers, shapes

MAGIC, OLD_MAGIC = 0xFABC0004, 0xFABC0002
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 2: np.dtype("i1")}
_IDS = {dtype: number for number, dtype in DTYPES.items()}
_MOST = 10_000  # TNN reads fewer layers with weights


def write(graph: Graph, proto_path: str | Path, model_path: str | Path) -> None:
    """Write both files. Raises ValueError, naming the layer, for an incomplete graph or one that the files cannot
    hold."""
    check(graph)
    weights = _weights(graph)
    text = _text(graph, zlib.crc32(weights))
    proto_path, model_path = Path(proto_path), Path(model_path)
    if proto_path == model_path:
        raise ValueError(f"{proto_path}: structure and weights need two paths")
    with whole_file(proto_path) as proto, whole_file(model_path) as model:  # the weights are renamed first
        proto.write_bytes(text.encode())
        model.write_bytes(weights)


def read(proto_path: str | Path, model_path: str | Path) -> Graph:
    """The graph of two files. Raises FileNotFoundError, or ValueError naming the file, the line or byte, and the layer
    that is damaged, unknown or left over."""
    proto_path, model_path = Path(proto_path), Path(model_path)
    try:
        text = proto_path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{proto_path}: not the text of a .tnnproto") from None
    weights = model_path.read_bytes()
    graph, lines, checksum = _structure(text, str(proto_path))
    if checksum is not None and checksum != zlib.crc32(weights):
        raise ValueError(f"{model_path}: damaged, or not the weights that {proto_path} was written with")
    graph = _filled(graph, weights, str(model_path), str(proto_path), lines)
    check(
        graph,
        lambda layer: f"{proto_path}: line {lines[layer.name]}: layer {layer.name}: " if layer else f"{proto_path}: ",
    )
    return graph


# The text.


def _text(graph: Graph, checksum: int) -> str:
    blobs = graph.blobs
    inputs = [f"{name} {len(shape)} {' '.join(map(str, shape))} 0" for name, shape in graph.inputs.items()]
    parts = [
        f"1 {len(blobs)} 1 {MAGIC} {checksum}", " : ".join(inputs), " ".join(blobs), " ".join(graph.outputs),
        f" {len(graph.layers)}",
    ]  # fmt: skip
    for layer in graph.layers:
        head = [layer.type, layer.name, len(layer.inputs), len(layer.outputs), *layer.inputs, *layer.outputs]
        parts.append(" ".join(map(str, [*head, *layer.params])))
    return "".join(f'"{part} ,"\n' for part in parts)


def _structure(text: str, path: str) -> tuple[Graph, dict[str, int], int | None]:
    """The graph without its weights, the line of each layer, and the checksum of the weights, if the file has one."""
    parts, line = [], 1
    *ended, rest = text.replace('"', " ").split(",")
    for part in ended:
        words = part.split()
        parts.append((line + part[: len(part) - len(part.lstrip())].count("\n"), words))
        line += part.count("\n")
    if rest.strip() or len(parts) < 6:
        raise ValueError(f"{path}: line {line}: cut off, or no .tnnproto: {len(parts)} parts that end with a comma")

    (first, head), (second, described_inputs), (third, blobs), (_, outputs), (fifth, count), *described = parts
    if len(head) < 4 or head[3] != str(MAGIC):
        old = " (version 1 is not read)" if head[3:4] == [str(OLD_MAGIC)] else ""
        raise ValueError(f"{path}: line {first}: not the head of a .tnnproto of version 2: '{' '.join(head)}'{old}")
    checksum = _integer(head[4], f"{path}: line {first}: checksum") if len(head) > 4 else None
    inputs = {}
    for words in " ".join(described_inputs).split(":"):
        name, shape = _input(words.split(), f"{path}: line {second}: ")
        if name in inputs:
            raise ValueError(f"{path}: line {second}: the input '{name}' occurs twice")
        inputs[name] = shape
    layers, lines = [], {}
    for number, words in described:
        layer = _layer(words, f"{path}: line {number}: ")
        if layer.name in lines:
            raise ValueError(f"{path}: line {number}: layer {layer.name}: line {lines[layer.name]} has the same name")
        layers.append(layer)
        lines[layer.name] = number
    graph = Graph(inputs, tuple(outputs), tuple(layers), {})
    if blobs != graph.blobs:
        wrong = sorted(set(blobs) ^ set(graph.blobs))
        if wrong or len(set(blobs)) != len(blobs):
            raise ValueError(f"{path}: line {third}: not the blobs of the layers: {' '.join(wrong) or 'one twice'}")
    if count != [str(len(layers))]:
        raise ValueError(f"{path}: line {fifth}: announces {' '.join(count)} layers, there are {len(layers)}")
    return graph, lines, checksum


def _integer(word: str, where: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{where}: expected a whole number, got '{word}'") from None


def _input(words: list[str], where: str) -> tuple[str, tuple[int, ...]]:
    sizes = [_integer(word, f"{where}input {words[0]}") for word in words[1:]]
    if len(sizes) < 3 or len(sizes) != sizes[0] + 2 or min(sizes[1:-1]) < 1:
        raise ValueError(f"{where}expected an input as 'name rank sizes.. type', got '{' '.join(words)}'")
    if sizes[-1] != 0:
        raise ValueError(f"{where}input {words[0]}: expected type 0, float32, got {sizes[-1]}")
    return words[0], tuple(sizes[1:-1])


def _layer(words: list[str], where: str) -> Layer:
    if len(words) < 4:
        raise ValueError(f"{where}expected a layer as 'type name inputs outputs ..', got '{' '.join(words)}'")
    where = f"{where}layer {words[1]}: "
    ins, outs = (_integer(word, f"{where}number of blobs") for word in words[2:4])
    if ins < 0 or outs < 0 or len(words) < 4 + ins + outs:
        raise ValueError(f"{where}{ins} inputs and {outs} outputs, but {len(words) - 4} words after that")
    try:
        params = numbers(words[0], words[4 + ins + outs :])
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
    return Layer(words[0], words[1], tuple(words[4 : 4 + ins]), tuple(words[4 + ins : 4 + ins + outs]), params)


# The weights.


def _string(text: str) -> bytes:
    return struct.pack("<i", len(text.encode())) + text.encode()


def _raw(array: np.ndarray, where: str) -> bytes:
    dtype = array.dtype.newbyteorder("<") if array.dtype.itemsize > 1 else array.dtype
    if dtype not in _IDS:
        raise ValueError(f"{where}the file cannot hold weights of type {array.dtype}")
    data = np.ascontiguousarray(array, dtype).tobytes()
    head = struct.pack("<Iii", MAGIC, _IDS[dtype], len(data))
    return head + struct.pack(f"<i{array.ndim}i", array.ndim, *array.shape) + data if data else head


def _weights(graph: Graph) -> bytes:
    owners = [layer for layer in graph.layers if layer.blobs]
    if len(owners) >= _MOST:
        raise ValueError(f"TNN reads fewer than {_MOST} layers with weights, there are {len(owners)}")
    out = [struct.pack("<Ii", MAGIC, len(owners))]
    for layer in owners:
        # With 0 as the number of the type TNN reads its name.
        out += [struct.pack("<i", 0), _string(layer.base), _string(layer.name)]
        for item in kind(layer.type).payload:
            out.append(_string(layer.name) if item == "name" else struct.pack("<i", layer.params[9]))
        out += [_raw(blob, f"layer {layer.name}: ") for blob in layer.blobs]
    if graph.constants:
        out.append(struct.pack("<Ii", MAGIC, len(graph.constants)))
        for name, array in graph.constants.items():
            out += [_string(name), _raw(array, f"constant {name}: ")]
    return b"".join(out)


@dataclass
class _Reader:
    data: bytes
    path: str
    at: int = 0
    part: str = "head"

    def fail(self, message: str) -> ValueError:
        return ValueError(f"{self.path}: byte {self.at}: {self.part}: {message}")

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise self.fail(f"damaged or cut off: expected {count} bytes, there are {len(self.data) - self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str = "<i") -> int:
        return struct.unpack(form, self.take(4))[0]

    def string(self) -> str:
        try:
            return self.take(self.number()).decode()
        except UnicodeDecodeError:
            raise self.fail("damaged: a name is not text") from None

    def raw(self) -> np.ndarray:
        magic, dtype, size = self.number("<I"), self.number(), self.number()
        if magic != MAGIC or dtype not in DTYPES:
            raise self.fail(f"damaged, or weights of an unknown kind (magic {magic:#x}, type {dtype})")
        if size == 0:
            return np.zeros(0, DTYPES[dtype])
        rank = self.number()
        dims = struct.unpack(f"<{rank}i", self.take(4 * rank)) if 0 < rank < 9 else ()
        if not dims or min(dims) < 1 or math.prod(dims) * DTYPES[dtype].itemsize != size:
            raise self.fail(f"damaged: {size} bytes of {DTYPES[dtype].name} for the shape {dims}")
        return np.frombuffer(self.take(size), DTYPES[dtype]).reshape(dims)


def _filled(graph: Graph, weights: bytes, path: str, proto: str, lines: dict[str, int]) -> Graph:
    """The graph with its weights and constants; every byte of the file is read."""
    file = _Reader(weights, path)
    if file.number("<I") != MAGIC:
        raise ValueError(f"{path}: byte 0: not a .tnnmodel of version 2")
    layers, blobs = {layer.name: layer for layer in graph.layers}, {}
    count = file.number() & 0x1FFFFFFF
    if count >= _MOST:
        raise file.fail(f"damaged: {count} layers with weights")
    for _ in range(count):
        file.part = "next layer"
        file.number()
        base, name = file.string(), file.string()
        file.part = f"layer {name}"
        layer = layers.get(name)
        if layer is None or layer.base != base or name in blobs:
            raise file.fail(f"weights of a '{base}' that {proto} does not have")
        try:
            expected = shapes(layer)
        except ValueError as error:
            raise ValueError(f"{proto}: line {lines[name]}: layer {name}: {error}") from None
        for item in kind(layer.type).payload:
            if item == "name":
                file.string()
            elif file.number() != layer.params[9]:
                raise file.fail(f"disagrees with line {lines[name]} of {proto} on the bias")
        blobs[name] = tuple(file.raw() for _ in expected)
    constants = {}
    if file.at < len(weights):
        file.part = "constants"
        if file.number("<I") != MAGIC:
            raise file.fail("damaged: bytes left over after the last layer")
        for _ in range(file.number()):
            name = file.string()
            file.part = f"constant {name}"
            constants[name] = file.raw()
    if file.at < len(weights):
        raise file.fail(f"damaged: {len(weights) - file.at} bytes left over")
    filled = tuple(replace(layer, blobs=blobs.get(layer.name, ())) for layer in graph.layers)
    return replace(graph, layers=filled, constants=constants)
