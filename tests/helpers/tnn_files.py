"""A small TNN graph and the two files that it must be written as, byte by byte."""

import struct
import zlib

import numpy as np

from students.export.tnn import Graph, Layer


def small_graph():
    weight = np.array([1, 2, 3, 4], np.float32).reshape(2, 2, 1, 1)
    layers = (
        Layer("Convolution", "conv", ("image",), ("a",), (1, 2, 2, 1, 1, 1, 1, 0, 0, 1, -1, 1, 1, 0),
              (weight, np.array([0.5, -1], np.float32))),
        Layer("PReLU", "act", ("a",), ("b",), (1, 0), (np.array([0.25], np.float32),)),
        Layer("Tanh", "tanh", ("b",), ("swap",)),
    )  # fmt: skip
    return Graph({"image": (1, 2, 4, 4)}, ("swap",), layers, {})


def raw(dims, *values):
    return bytes.fromhex("0400bcfa 00000000") + struct.pack(
        f"<ii{len(dims)}i{len(values)}f", 4 * len(values), len(dims), *dims, *values
    )


MODEL = (
    bytes.fromhex("0400bcfa 02000000")
    + bytes.fromhex("00000000 0b000000") + b"Convolution" + bytes.fromhex("04000000") + b"conv"
    + bytes.fromhex("04000000") + b"conv" + bytes.fromhex("01000000")
    + raw([2, 2, 1, 1], 1, 2, 3, 4) + raw([2], 0.5, -1)
    + bytes.fromhex("00000000 05000000") + b"PReLU" + bytes.fromhex("03000000") + b"act"
    + bytes.fromhex("03000000") + b"act" + raw([1], 0.25)
)  # fmt: skip
PROTO = f""""1 4 1 4206624772 {zlib.crc32(MODEL)} ,"
"image 4 1 2 4 4 0 ,"
"a b image swap ,"
"swap ,"
" 3 ,"
"Convolution conv 1 1 image a 1 2 2 1 1 1 1 0 0 1 -1 1 1 0 ,"
"PReLU act 1 1 a b 1 0 ,"
"Tanh tanh 1 1 b swap ,"
"""


def write_small(folder, proto=PROTO, model=MODEL):
    paths = folder / "small.tnnproto", folder / "small.tnnmodel"
    paths[0].write_text(proto) if isinstance(proto, str) else paths[0].write_bytes(proto)
    paths[1].write_bytes(model)
    return paths
