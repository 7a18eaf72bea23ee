"""The page in a headless Chromium: PyTorch's numbers, Python's pixels, no other host, errors in words.

Wants the npm package in node_modules and Chromium with its driver: `make test-web` gets the first.
"""

import base64
import io
import json
import shutil
import socket
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, needs_shared
from PIL import Image

pytest.importorskip("onnxscript", reason='pip install -e ".[export-onnx]"')
import onnx as onnx_package  # noqa: E402
from helpers.odd_pictures import p3_profile  # noqa: E402
from helpers.small_students import inputs, swapper  # noqa: E402
from helpers.student_files import EMBEDDING  # noqa: E402

import students  # noqa: E402
from students.export import browser, web  # noqa: E402
from students.export.models import models  # noqa: E402
from swapcore import terminal  # noqa: E402
from swapcore.decoding import decode  # noqa: E402
from swapcore.frame import CANONICAL  # noqa: E402
from swapcore.images import to_float, to_uint8  # noqa: E402
from teachers.exact import render, sample_attributes, sample_identities  # noqa: E402

RUNTIME = ROOT / "node_modules" / web.PACKAGE
YUNET = SHARED / "weights" / "yunet_n_dynamic.onnx"
needs_runtime = pytest.mark.skipif(not RUNTIME.is_dir(), reason=f"make test-web, or {web.INSTALL}")


@pytest.fixture(scope="module")
def chromium():
    pytest.importorskip("selenium", reason=terminal.install("export-web"))
    if not shutil.which("chromedriver") or not any(map(shutil.which, browser.BROWSERS)):
        pytest.skip("apt-get install chromium chromium-driver")


@pytest.fixture(scope="module")
def student():
    return swapper("compact")


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory):
    """The page of a small student, with YuNet where it is at hand."""
    if not RUNTIME.is_dir():
        pytest.skip(f"make test-web, or {web.INSTALL}")
    path = tmp_path_factory.mktemp("web") / "page"
    return web.write(models(student), path, "fp32", {}, RUNTIME, YUNET if YUNET.is_file() else None)


@pytest.fixture(scope="module")
def page(folder, chromium):
    with browser.opened(folder) as opened:
        yield opened


def swap_of(folder, images):
    """The swap in the page of a folder, in WebAssembly."""
    with browser.opened(folder) as page:
        return page.swap(**images).swap


def faces(n, size, seed=5):
    """Synthetic faces (n, size, size, 3) uint8."""
    drawn = render(sample_identities(n, seed), sample_attributes(n, seed), size).image
    return to_uint8(drawn.clamp(-1, 1)).permute(0, 2, 3, 1).numpy()


def choose(page, side, mode, path):
    """The kind of picture, then the picture; returns what the page tells of it."""
    box = page.driver.find_element("id", side)
    box.find_element("css selector", f"input[value={mode}]").click()
    box.find_element("css selector", "input[type=file]").send_keys(str(path))
    page.call("swapdistill.shown()")
    return box.find_element("css selector", ".status").text


def shown(page, what):
    read = f"swapdistill.shown().then((all) => [all.{what}.height, all.{what}.width, Array.from(all.{what}.data)])"
    height, width, data = page.call(read)
    return np.array(data, np.uint8).reshape(height, width, 3)


@needs_runtime
@pytest.mark.parametrize("name", students.STUDENTS)
def test_the_swap_is_that_of_pytorch(tmp_path, chromium, name):
    student = swapper(name)
    made = models(student)
    path = web.write(made, tmp_path / "page", "fp32", {"student": name}, RUNTIME)
    given = inputs(made["whole"], 1)
    with torch.inference_mode():
        wanted = student(**given)
    swap = swap_of(path, given)
    assert swap.shape == wanted.shape and (swap - wanted).abs().max() < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["page"]


@pytest.mark.slow
def test_webgpu_gives_the_same_swap(folder, student, chromium):
    """Computed on the CPU, slowly, by the SwiftShader that comes with Chromium."""
    given = inputs(models(student)["whole"], 1)
    with browser.opened(folder, "webgpu") as page:
        made = page.swap(**given)
    with torch.inference_mode():
        assert made.backend == "webgpu" and (made.swap - student(**given)).abs().max() < 1e-3


def test_planted_errors_are_caught(folder, student, tmp_path, chromium):
    path = tmp_path / "page"
    shutil.copytree(folder, path)
    proto = onnx_package.load(path / "generator.onnx")
    weight = max((t for t in proto.graph.initializer if len(t.dims) == 4), key=lambda t: t.dims[0] * t.dims[1])
    array = onnx_package.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx_package.numpy_helper.from_array(array[::-1].copy(), weight.name))
    (path / "generator.onnx").write_bytes(proto.SerializeToString())
    given = inputs(models(student)["whole"], 1)
    with pytest.raises(ValueError, match="the swap is off by .* from PyTorch's"):
        swap_of(path, given)
    about = json.loads((path / "about.json").read_text())
    about["check"]["tolerance"] = 9  # the page's own check out of the way
    (path / "about.json").write_text(json.dumps(about))
    with torch.inference_mode():
        assert (swap_of(path, given) - student(**given)).abs().max() > 1e-3
    (path / "generator.onnx").write_bytes(b"half")
    with pytest.raises(ValueError, match="generator.onnx has 4 bytes, about.json says"):
        swap_of(path, given)
    (path / "index.html").unlink()
    with pytest.raises(ValueError, match="no page"):
        swap_of(path, given)


def test_no_other_host_is_asked(page):
    assert page.hosts() == {page.address.rstrip("/")}
    assert not [asked for asked in page.requests if "jsep" in asked or "map" in asked]
    page.driver.get_log("browser")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"http://localhost:{other.getsockname()[1]}/"
        with pytest.raises(ValueError, match="Failed to fetch"):
            page.call(f"fetch('{address}')")
        image = "const i = new Image(); i.onload = i.onerror = (event) => done(event.type);"
        assert page.call(f"new Promise((done) => {{ {image} i.src = '{address}'; }})") == "error"
        other.settimeout(0.2)
        with pytest.raises(TimeoutError):
            other.accept()
    told = [entry["message"] for entry in page.driver.get_log("browser")]
    assert sum("Content Security Policy" in line for line in told) >= 2


def test_crops_of_the_students_size_are_taken_as_they_are(page, student, tmp_path):
    images = faces(2, 64)
    for side, image in zip(("source", "target"), images, strict=True):
        Image.fromarray(image).save(tmp_path / f"{side}.png")
        assert "64 × 64 pixels" in choose(page, side, "crop", tmp_path / f"{side}.png")
        assert np.array_equal(shown(page, side), image)
    with torch.inference_mode():
        source, target = to_float(torch.from_numpy(images).permute(0, 3, 1, 2)).split(1)
        wanted = to_uint8(student(source, target))[0].permute(1, 2, 0).numpy()
    assert np.abs(shown(page, "swap").astype(int) - wanted).max() <= 1
    assert page.driver.find_element("id", "photo").is_displayed() is False
    page.driver.find_element("id", "time").click()
    page.call("swapdistill.shown()")
    assert "Medians of 20 runs in WebAssembly" in page.driver.find_element("id", "result-status").text
    for number in ("encoder-ms", "generator-ms"):
        assert 0 < float(page.driver.find_element("id", number).text.removesuffix(" ms")) < 10_000


def test_other_sizes_are_resized_as_python_does(page, tmp_path):
    for size in (256, 100, 48):
        image = Image.fromarray(faces(1, size)[0])
        image.save(tmp_path / f"{size}.png")
        choose(page, "source", "crop", tmp_path / f"{size}.png")
        wanted = np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(shown(page, "source") - wanted).max() <= 1


def test_colours_and_transparency_are_read_as_python_does(page, tmp_path):
    pixels = np.full((64, 64, 4), (184, 87, 54, 255), np.uint8)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "p3.png", icc_profile=p3_profile())
    pixels[:20, :, 3], pixels[20:40, :, 3] = 0, 100
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    for name in ("p3.png", "cut.png"):
        choose(page, "source", "crop", tmp_path / name)
        wanted = decode(tmp_path / name).transpose(1, 2, 0).astype(int)
        assert np.abs(wanted - pixels[..., :3]).max() > 10
        assert np.abs(shown(page, "source") - wanted).max() <= 2


def test_what_is_saved_says_that_it_is_generated(page, tmp_path):
    for side, image in zip(("source", "target"), faces(2, 64), strict=True):
        Image.fromarray(image).save(tmp_path / f"{side}.png")
        choose(page, side, "crop", tmp_path / f"{side}.png")
    read = "swapdistill.labelled().then((blob) => blob.bytes()).then((bytes) => btoa(String.fromCharCode(...bytes)))"
    with Image.open(io.BytesIO(base64.b64decode(page.call(read)))) as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB")), shown(page, "swap"))
        assert saved.text["Software"] == "SwapDistill" and "AI-generated" in saved.text["Comment"]
        assert "digitalsourcetype/trainedAlgorithmicMedia" in saved.text["XML:com.adobe.xmp"]
        assert saved.mode == "RGB"
        assert ElementTree.fromstring(saved.text["XML:com.adobe.xmp"].strip("\ufeff")) is not None


def test_what_is_wrong_with_a_picture_is_told_beside_it(page, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    assert "is not a picture that this browser can read" in choose(page, "source", "crop", tmp_path / "text.png")
    Image.new("RGB", (80, 60)).save(tmp_path / "wide.png")
    assert "80 × 60; an aligned crop is square" in choose(page, "source", "crop", tmp_path / "wide.png")
    assert page.driver.find_element("id", "save").is_enabled() is False
    assert page.driver.find_element("id", "error").is_displayed() is False


@needs_shared
def test_faces_in_photos_are_found_aligned_and_laid_back_as_python_does(page, tmp_path):
    pytest.importorskip("cv2", reason='pip install -e ".[video]"')
    from distill.data import faces as aligned

    detector = aligned.Detector(YUNET)
    scene = np.full((700, 1500, 3), 90, np.uint8)
    first, second = faces(2, 512)
    scene[60:572, 800:1312] = first
    scene[100:356, 60:316] = np.asarray(Image.fromarray(second).resize((256, 256)))
    Image.fromarray(second).save(tmp_path / "source.png")
    Image.fromarray(scene).save(tmp_path / "scene.png")
    assert "Face found in 512 × 512 pixels." in choose(page, "source", "photo", tmp_path / "source.png")
    assert "face 1 of 2 by size" in choose(page, "target", "photo", tmp_path / "scene.png")
    points = np.array(page.call("swapdistill.shown().then((all) => all.face)"))
    assert np.abs(points - detector(scene)).max() < 1
    for side, image in (("source", second), ("target", scene)):
        wanted = aligned.align(image, detector(image) if side == "source" else points, 64)
        assert np.abs(shown(page, side).astype(int) - wanted).mean() < 1
    wanted = aligned.paste(shown(page, "swap"), scene, points).astype(int)
    difference = np.abs(shown(page, "photo") - wanted)
    assert difference.mean() < 0.1 and np.percentile(difference, 99.9) <= 4
    assert page.driver.find_element("id", "photo").is_displayed()
    page.driver.find_element("css selector", "#target .next").click()
    other = np.array(page.call("swapdistill.shown().then((all) => all.face)"))
    assert "face 2 of 2" in page.driver.find_element("id", "target-status").text
    assert np.abs(other - detector.all(scene)[1]).max() < 1
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "nobody.png")
    assert "No face was found" in choose(page, "target", "photo", tmp_path / "nobody.png")
    assert page.driver.find_element("id", "photo").is_displayed() is False


@needs_runtime
@pytest.mark.parametrize("precision, share, allowed", [("fp16", (0.45, 0.75), 0.02), ("int8", (0.2, 0.65), 0.2)])
def test_smaller_weights_make_smaller_files_and_keep_the_swap(
    precision, share, allowed, folder, student, tmp_path, chromium
):
    """Without a detector here, and so with aligned crops only."""
    path = web.write(models(student), tmp_path / "page", precision, {}, RUNTIME)
    sizes = [(p / "generator.onnx").stat().st_size for p in (folder, path)]
    assert share[0] < sizes[1] / sizes[0] < share[1]
    given = inputs(models(student)["whole"], 1)
    with browser.opened(path) as page, torch.inference_mode():
        difference = (page.swap(**given).swap - student(**given)).abs()
        assert 0 < difference.max() < allowed
        assert "without a face detector" in page.driver.find_element("id", "crops-only").text
        modes = page.driver.find_elements("css selector", "input[value=photo]")
        assert len(modes) == 2 and not any(mode.is_enabled() for mode in modes)


@needs_runtime
def test_a_page_is_replaced_and_nothing_else_is(folder, student, tmp_path):
    about = json.loads((folder / "about.json").read_text())
    assert about["canonical"] == [list(place) for place in CANONICAL]
    assert about["resolution"] == 64 and about["models"]["generator"]["inputs"]["embedding"] == [1, EMBEDDING]
    assert about["models"]["generator"]["bytes"] == (folder / "generator.onnx").stat().st_size
    assert {p.name for p in (folder / "runtime").iterdir()} == {*web.RUNTIME, "package.json"}
    assert "Copyright (c) Microsoft" in (folder / "NOTICE.txt").read_text()
    (tmp_path / "empty").mkdir()
    path = web.write(models(student), tmp_path / "empty", "fp32", {}, RUNTIME)
    (path / "old").write_text("of the page before")
    web.write(models(student), path, "fp32", {}, RUNTIME)
    assert not (path / "old").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    for taken in ("mine", "mine/letter.txt"):
        with pytest.raises(ValueError, match=f"{taken}: exists and is not a page"):
            web.write(models(student), tmp_path / taken, "fp32", {}, RUNTIME)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "mine"]


def test_what_is_missing_is_named_and_nothing_is_left(student, tmp_path, monkeypatch):
    made, path = models(student), tmp_path / "page"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no onnxruntime-web in node_modules .*: npm install onnxruntime-web@"):
        web.write(made, path, "fp32", {})
    runtime = tmp_path / "node_modules" / web.PACKAGE
    (runtime / "dist").mkdir(parents=True)
    for text, told in (
        ("{", "package.json: damaged"),
        ('{"name": "onnxruntime-web", "version": "1.2.3"}', f"holds onnxruntime-web 1.2.3, .* {web.VERSION}: npm"),
        (json.dumps({"name": web.PACKAGE, "version": web.VERSION}), f"{web.RUNTIME[0]}: missing: npm install"),
    ):
        (runtime / "package.json").write_text(text)
        with pytest.raises(ValueError, match=told):
            web.write(made, path, "fp32", {})
    for name in web.RUNTIME:
        (runtime / "dist" / name).write_bytes(b"")
    with pytest.raises(ValueError, match="unknown precision 'int4' for web, known: fp32, fp16, int8"):
        web.write(made, path, "int4", {})
    with pytest.raises(ValueError, match="absent.onnx: no such file; give the ONNX file of YuNet"):
        web.write(made, path, "fp32", {}, detector=tmp_path / "absent.onnx")
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="x.onnx: not an ONNX file"):
        web.write(made, path, "fp32", {}, detector=tmp_path / "x.onnx")
    other = onnx_package.helper.make_model(onnx_package.helper.make_graph([], "g", [], []))
    onnx_package.save(other, tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="x.onnx: not YuNet: it has no output 'bbox_16'"):
        web.write(made, path, "fp32", {}, detector=tmp_path / "x.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["node_modules", "x.onnx"]


def test_a_missing_browser_is_told(tmp_path, monkeypatch):
    pytest.importorskip("selenium", reason=terminal.install("export-web"))
    (tmp_path / "index.html").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs Chromium: apt-get install chromium chromium-driver"):
        swap_of(tmp_path, {})
