"""Damaged files of TNN: what is wrong is named by file, by line or byte, and by layer."""

import struct
import zlib

import pytest
from helpers.tnn_files import MODEL, PROTO, raw, write_small

from students.export import tnn


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"PReLU', '"LeakyRelu', "line 7: layer act: unknown layer type 'LeakyRelu', known: Convolution"),
        ('"Tanh', '"DynamicRangeQuantizedTanh', "line 8: layer tanh: unknown layer type"),
        ("4206624772", "4206624770", "line 1: not the head of a .tnnproto of version 2.*version 1 is not read"),
        ("4206624772", "what", "line 1: not the head"),
        ("image 4 1 2 4 4 0", "image 4 1 2 4 0", "line 2: expected an input as"),
        ("image 4 1 2 4 4 0", "image 4 1 2 4 x 0", "line 2: input image: expected a whole number, got 'x'"),
        ("image 4 1 2 4 4 0", "image 4 1 2 4 4 1", "line 2: input image: expected type 0, float32, got 1"),
        ('"image 4 1 2 4 4 0', '"image 1 2 0 : image 1 2 0', "line 2: the input 'image' occurs twice"),
        ('"a b image', '"a c image', "line 3: not the blobs of the layers: b c"),
        ('"swap ,"', '"face ,"', "no layer computes the output 'face'"),
        ('" 3 ,', '" 4 ,', "line 5: announces 4 layers, there are 3"),
        ("act 1 1 a b 1 0", "act 1 1 a b 1", "line 7: layer act: expected 2 parameters of a PReLU, got 1"),
        ("act 1 1 a b 1 0", "act 1 1 a b 1 half", "line 7: layer act: parameter 2 is not a whole number: 'half'"),
        ("act 1 1 a b 1 0", "act 9 1 a b 1 0", "line 7: layer act: 9 inputs and 1 outputs, but 4 words"),
        ("act 1 1 a b 1 0", "act", "line 7: expected a layer as"),
        ("PReLU act 1 1 a b", "PReLU conv 1 1 a b", "line 7: layer conv: line 6 has the same name"),
        ("PReLU act 1 1 a b", "PReLU act 1 1 swap b", "line 7: layer act: no layer before it computes 'swap'"),
        ("PReLU act", "PReLU acts", "byte .*weights of a 'PReLU' that .*small.tnnproto does not have"),
        ("a 1 2 2 1 1", "a 1 2 2 1 3", r"line 6: layer conv: expected weights of shapes \[\(2, 2, 1, 3\)"),
        ("0 0 1 -1 1 1 0 ,", "0 0 0 -1 1 1 0 ,", "layer conv: disagrees with line 6 .* on the bias"),
        ('"Tanh tanh 1 1 b swap ,"\n', '"Tanh tanh 1 1 b swap', "cut off, or no .tnnproto"),
    ],
)
def test_damage_to_the_text_is_named_by_file_and_line(tmp_path, old, new, message):
    assert PROTO.count(old) >= 1
    with pytest.raises(ValueError, match=f"small.tnn(proto|model): .*({message})"):
        tnn.read(*write_small(tmp_path, PROTO.replace(old, new, 1)))


BARE = PROTO.replace(f" {zlib.crc32(MODEL)} ", " ")  # no checksum: the reader must see the damage by itself


def test_weights_cut_off_anywhere_are_seen(tmp_path):
    for size in range(len(MODEL)):
        with pytest.raises(ValueError, match="small.tnnmodel: byte|small.tnnproto: line 6: layer conv"):
            tnn.read(*write_small(tmp_path, BARE, MODEL[:size]))


@pytest.mark.parametrize("proto", [PROTO, BARE])
def test_other_damage_to_the_weights_is_named(tmp_path, proto):
    begin = MODEL.index(raw([2], 0.5, -1))
    for at, new, message in (
        (0, b"abcd", "byte 0: not a .tnnmodel of version 2"),
        (4, struct.pack("<i", 10_000), "10000 layers with weights"),
        (12, struct.pack("<i", -1), "expected -1 bytes"),
        (16, b"C\xff", "a name is not text"),
        (31, b"x", "weights of a 'Convolution' that"),
        (begin, b"\2", "layer conv: damaged, or weights of an unknown kind"),
        (begin + 4, b"\3", "layer conv: damaged, or weights of an unknown kind"),
        (begin + 4, b"\1", "layer conv: damaged: 8 bytes of float16"),
        (begin + 4, b"\7", "layer conv: damaged, or weights of an unknown kind"),
        (begin + 8, b"\7", "layer conv: damaged: 7 bytes"),
        (begin + 12, struct.pack("<i", -4), "layer conv: damaged"),
        (begin + 16, struct.pack("<i", -2), "layer conv: damaged"),
        (len(MODEL), b"left", "damaged: bytes left over|next layer"),
        (len(MODEL), bytes.fromhex("0400bcfa 00000000 00"), "1 bytes left over"),
    ):
        model = MODEL[:at] + new + MODEL[at + len(new) :]
        if proto == PROTO:
            message = "damaged, or not the weights that .*small.tnnproto was written with"
        with pytest.raises(ValueError, match=f"small.tnnmodel: .*({message})|small.tnnproto: line 6: .*({message})"):
            tnn.read(*write_small(tmp_path, proto, model))


def test_weights_of_another_model_of_the_same_layers_are_seen(tmp_path):
    with pytest.raises(ValueError, match="not the weights that .*small.tnnproto was written with"):
        tnn.read(*write_small(tmp_path, PROTO, MODEL.replace(raw([1], 0.25), raw([1], 0.2))))
    with pytest.raises(ValueError, match="not the text of a .tnnproto"):
        tnn.read(*write_small(tmp_path, MODEL))
    write_small(tmp_path)
    with pytest.raises(FileNotFoundError):
        tnn.read(tmp_path / "small.tnnproto", tmp_path / "none.tnnmodel")
