"""Pictures say that they were generated, and what they were made from; folders of pictures."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from helpers.marks import is_marked
from PIL import Image

from swapcore import images as pictures


def test_saved_pictures_say_that_they_are_generated(tmp_path):
    pictures.save_png(torch.full((3, 16, 16), 200, dtype=torch.uint8), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.getpixel((3, 3)) == (200, 200, 200)
        assert "AI-generated" in picture.text["Comment"]
        packet = ElementTree.fromstring(picture.text["XML:com.adobe.xmp"].strip("\ufeff"))
    description = packet.find(".//{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    kind = description.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert kind == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def test_photographs_and_masks_are_not_marked_and_keep_their_pixels(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (("photo", (16, 12, 3)), ("mask", (16, 12))):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        pictures.save_png(pixels, tmp_path / f"{name}.png", generated=False)
        pictures.save_png(pixels, tmp_path / f"{name}-generated.png", compress_level=1)
        for suffix, marked in (("", False), ("-generated", True)):
            path = tmp_path / f"{name}{suffix}.png"
            assert is_marked(path) == marked
            assert np.array_equal(np.asarray(Image.open(path)), pixels)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png"] * 4


def test_bytes_and_floats():
    every = torch.arange(256, dtype=torch.uint8)
    floats = pictures.to_float(every)
    assert floats.dtype == torch.float32 and torch.equal(floats, every.float() / 127.5 - 1)
    assert torch.equal(pictures.to_uint8(floats), every)
    assert torch.equal(pictures.to_uint8(floats.half()), every)
    assert pictures.to_uint8(torch.tensor([-3.0, 2.0])).tolist() == [0, 255]
    for bad in (floats, every.int()):
        with pytest.raises(ValueError, match="expected uint8"):
            pictures.to_float(bad)
    with pytest.raises(ValueError, match="expected floats"):
        pictures.to_uint8(every)
    holed = torch.tensor([float("nan"), 1.0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        pictures.to_uint8(holed)
    assert pictures.to_uint8(holed, check=False)[1] == 255


def test_grid_has_a_column_per_title_and_a_row_per_sample():
    sheet = pictures.grid({"source": torch.zeros(3, 3, 8, 8).byte(), "swap": torch.zeros(2, 3, 8, 8).byte() + 255}, 32)
    assert sheet.size == (2 * 34 + 2, 26 + 2 * 34)
    assert sheet.getpixel((18, 40)) == (0, 0, 0) and sheet.getpixel((52, 40)) == (255, 255, 255)


def test_hidden_pictures_and_masks_are_listed_apart(tmp_path):
    names = ["b/1.JPG", "a.png", "b/1.mask.png", "b/._1.jpg", ".trash/2.webp", "notes.txt", "c.png/3.bmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "lost.png").symlink_to(tmp_path / "absent.png")

    def listed(folder, **options):
        return [
            [p.relative_to(folder).as_posix() for p in paths] for paths in pictures.list_pictures(folder, **options)
        ]

    assert listed(tmp_path) == [["a.png", "b/1.JPG", "c.png/3.bmp", "lost.png"], [".trash/2.webp", "b/._1.jpg"]]
    assert listed(tmp_path, deep=False) == [["a.png", "lost.png"], []]
    assert listed(tmp_path / ".trash") == [["2.webp"], []], "the folder's own name does not count"
    assert listed(tmp_path / "absent") == [[], []]


def test_a_picture_may_say_what_it_was_made_from(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    facts = {"size": 8, "picture": "ab\n\u00e9"}
    for generated in (True, False):
        pictures.save_png(pixels, tmp_path / "a.png", generated=generated, made_from=facts)
        assert pictures.read_made_from(tmp_path / "a.png") == facts and is_marked(tmp_path / "a.png") == generated
        pictures.save_png(pixels, tmp_path / "a.png", generated=generated)
        assert pictures.read_made_from(tmp_path / "a.png") is None
    (tmp_path / "a.png").write_bytes(b"?")
    with pytest.raises(pictures.DataError, match="a.png: not a readable picture"):
        pictures.read_made_from(tmp_path / "a.png")
