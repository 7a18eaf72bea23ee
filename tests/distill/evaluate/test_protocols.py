"""Protocols by name: answers known by hand through the command, damaged files, and the page that compares them."""

import json

import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image

from distill.config import ConfigError
from distill.evaluate import __main__ as evaluate
from distill.evaluate import listed, protocols
from distill.evaluate.pairs import read
from eval import estimators
from eval.cards import CARDS
from swapcore.images import DataError, save_png

SIDE, PEOPLE = 32, 10
BAD = (3, 7)  # pairs whose swap shows the target's person, in a pose that is (3, 4, 12) off


def portrait(person, pose, seed):
    """A picture whose first row has the person as a bright column, and whose last row has three angles."""
    image = torch.randint(60, 200, (3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    image[:, 0] = 0
    image[:, 0, person] = 255
    image[:, -1, :3] = torch.tensor(pose, dtype=torch.uint8)
    return image


class Person(torch.nn.Module):
    def forward(self, images):
        return torch.nn.functional.normalize(images[:, 0, 0, :PEOPLE] + 1)


class Angles(torch.nn.Module):
    """Angles in degrees, or the first of 66 logits of each."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        angles = ((images[:, 0, -1, :3] + 1) * 127.5).round()
        if not self.logits:
            return angles
        return torch.nn.functional.pad(angles[:, :, None], (0, 65)).flatten(1)


class Masked(Person):
    """Sees a person only where the parsing map has class 6."""

    takes_parsing = True

    def forward(self, images, parsing):
        return super().forward(images * (parsing == 6))


OWN = ["--recogniser", "synthetic_recogniser", "--pose", "synthetic_pose", "--expression", "synthetic_pose"]


@pytest.fixture
def readers(monkeypatch, tmp_path):
    """Networks that read what `portrait` writes in place of the published ones; the folder of their files."""
    built = {
        "irse50": lambda card, output, paths: Masked(),
        "face_regressor": lambda card, output, paths: Person() if output == "embedding" else Angles(False),
        "sphere20": lambda card, output, paths: Person(),
        "hopenet": lambda card, output, paths: Angles(card.options["logits"]),
        "whitened_parameters": lambda card, output, paths: Angles(False),
        "reconstruction": lambda card, output, paths: Angles(False),
    }
    for name, build in built.items():
        monkeypatch.setitem(estimators.ARCHITECTURES, name, build)
    folder = tmp_path / "weights"
    folder.mkdir()
    for card in CARDS.values():
        if card.architecture in built and card.sha256 is None:  # the others are shipped
            (folder / card.file).write_text(card.name)
    return folder


@pytest.fixture
def swapped(tmp_path):
    """A list of ten pairs, and a folder of swaps that are named by their pictures."""
    pictures, swaps = tmp_path / "pictures", tmp_path / "peer"
    lines = ["source,target"]
    for i in range(PEOPLE):
        source, pose, other = portrait(i, (90, 90, 90), i), (10 + i, 40, 70), (i + 1) % PEOPLE
        target = portrait(other, pose, 100 + i)
        swap = portrait(other if i in BAD else i, (13 + i, 44, 82) if i in BAD else pose, 100 + i)
        save_png(source, pictures / f"s{i}.png")
        save_png(target, pictures / f"t{i}.png")
        save_png(swap, swaps / f"s{i}-t{i}.png")
        lines.append(f"s{i}.png,t{i}.png")
    pairs = tmp_path / "mine.csv"
    pairs.write_text("\n".join(lines))
    listed.write("mine", listed.from_csv(pairs), pictures, tmp_path / "list", resolution=SIDE)
    return tmp_path / "list", swaps


def run(swapped, out, *names, more=()):
    listing, swaps = swapped
    arguments = [str(swaps), "copy-source", "--pairs", str(listing), "--out", str(out), "--protocol", *names]
    return evaluate.main([*arguments, *map(str, more), "--set", "threads=1"])


def values(out, name, row="peer"):
    rows = json.loads((out / name / "metrics.json").read_text())["rows"]
    return {key: value["value"] for key, value in rows[row].items()}


def test_each_protocol_gives_the_number_known_by_hand(readers, swapped, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(swapped, out, "casia", "reliableswap", "reface", more=["--weights", readers]) == 0
    printed = capsys.readouterr().out
    casia, reliable, reface = (values(out, name) for name in ("casia", "reliableswap", "reface"))
    # 8 of 10 swaps show the source's person; two angles are (3, 4, 12) off, whose norm is 13.
    assert casia.keys() == {
        "id_retrieval_top1_pct", "id_similarity_source", "pose_error_deg", "expression_error", "ssim_source",
    }  # fmt: skip
    assert casia["id_retrieval_top1_pct"] == 80 and casia["id_similarity_source"] == pytest.approx(0.8)
    assert casia["pose_error_deg"] == pytest.approx(2.6) == casia["expression_error"] == reface["pose_error_deg"]
    assert values(out, "casia", "copy-source")["ssim_source"] == 1
    # sqrt(2 x 9 / 10), sqrt(2 x 16 / 10), sqrt(2 x 144 / 10): their mean, halved. The first tenth is pair 0.
    by_hand = sum((2 * square / 10) ** 0.5 for square in (9, 16, 144)) / 3 / 2
    assert reliable["pose_logits_l2"] == pytest.approx(by_hand) and reliable["id_retrieval_top1_pct"] == 80
    assert reliable["id_similarity_first_tenth"] == pytest.approx(1)
    assert reface.keys() == {"pose_error_deg", "expression_error"}, "the list has no masks"
    content = json.loads((out / "reface" / "metrics.json").read_text())
    assert content["not_measured"] == dict.fromkeys(("id_retrieval", "id_similarity"), protocols.NO_MASKS)
    assert "pictures named by {source}-{target}" in printed and "protocol casia: The CASIA survey" in printed

    one = json.loads((out / "casia" / "metrics.json").read_text())["rows"]["peer"]["id_retrieval_top1_pct"]["protocol"]
    assert one["data"]["measured_by"] == "casia" and one["recogniser"]["name"] == "cosface_acc9928"
    assert one["flip"] == "image and mirror image, concatenated"
    two = json.loads((out / "reliableswap" / "metrics.json").read_text())["rows"]["peer"]["id_retrieval_top1_pct"]
    assert two["protocol"]["flip"] == "none" and "the sources themselves" in two["protocol"]["gallery"]["definition"]


def test_ours_gives_the_number_known_by_hand(readers, swapped, tmp_path):
    metrics = "id_retrieval,id_similarity,pose_error,expression_error"
    assert run(swapped, tmp_path / "out", "ours", more=[*OWN, "--metrics", metrics, "--weights", readers]) == 0
    found = values(tmp_path / "out", "ours")
    assert found["id_retrieval_top1_pct"] == 80 and found["id_similarity_source"] == pytest.approx(0.8)
    assert found["pose_error_deg"] == pytest.approx(2.6) == found["expression_error"]


HIDDEN = 5  # the pair whose target's parsing map has no part of a face


def masks_of(swapped):
    """Parsing maps of all pictures, and the list written again with them."""
    root, _ = swapped
    maps, pictures = root.parent / "maps", root.parent / "pictures"
    maps.mkdir()
    for path in pictures.glob("*.png"):
        level = 0 if path.stem == f"t{HIDDEN}" else 6
        Image.new("L", (SIDE * 2, SIDE * 2), level).save(maps / path.name)
    out = root.parent / "masked"
    listed.write("mine", listed.from_csv(root.parent / "mine.csv"), pictures, out, resolution=SIDE, masks=maps)
    return maps, out


def test_reface_masks_faces_by_parsing_maps(readers, swapped, tmp_path):
    maps, listing = masks_of(swapped)
    assert run((listing, swapped[1]), tmp_path / "out", "reface", more=["--weights", readers]) == 0
    found = values(tmp_path / "out", "reface")
    # Of 10 swaps 2 show another person and 1 is hidden: its cosine to all is 1 / sqrt(10), which is a miss.
    assert found["id_retrieval_top1_pct"] == 70 == found["id_retrieval_top5_pct"]
    assert found["id_similarity_source"] == pytest.approx((7 + 10**-0.5) / 10)
    one = json.loads((tmp_path / "out" / "reface" / "metrics.json").read_text())["rows"]["peer"]
    protocol = one["id_retrieval_top1_pct"]["protocol"]
    assert protocol["data"]["parsing"] == "from files" and protocol["recogniser"]["name"] == "arcface_reface"


def test_a_missing_or_damaged_parsing_map_is_named(swapped, tmp_path):
    maps, out = masks_of(swapped)
    pictures, pairs = out.parent / "pictures", listed.from_csv(out.parent / "mine.csv")
    (maps / "t4.png").unlink()
    content = json.loads(listed.write("m", pairs, pictures, tmp_path / "m", resolution=SIDE, masks=maps).read_text())
    assert content["skipped"] == [{"what": "s4 onto t4", "reason": f"t4: no parsing map of this name in {maps}"}]
    (maps / "t6.png").write_text("no picture")
    with pytest.raises(DataError, match="t6.png: not a readable picture"):
        read(tmp_path / "m")
    with pytest.raises(DataError, match="--masks: parsing maps are of whole pictures"):
        listed.write("m", pairs, pictures, tmp_path / "a", resolution=SIDE, masks=maps, aligned=True)


def test_parsing_maps_are_read_as_classes(swapped):
    maps, listing = masks_of(swapped)
    wanted, _ = read(listing)
    for path in maps.iterdir():
        with Image.open(path) as grey:
            picture = Image.new("P", grey.size, grey.getpixel((0, 0)))
        picture.putpalette([200, 30, 90] * 7)
        picture.save(path)
    assert torch.equal(read(listing)[0].target_parsing, wanted.target_parsing)
    Image.new("RGB", (SIDE, SIDE), (6, 6, 6)).save(maps / "t4.png")
    with pytest.raises(DataError, match="t4.png: a parsing map of mode RGB, whose pixels are no classes; save it in"):
        read(listing)
    for path in maps.iterdir():
        Image.new("L", (SIDE, SIDE), 255).save(path)
    with pytest.raises(DataError, match="shows a part of a face, class 1, 2, 3, 5, 6, 7, 9; write the list again"):
        read(listing)


def test_the_page_has_a_table_a_protocol_and_says_why_numbers_differ(readers, swapped, tmp_path):
    out = tmp_path / "out"
    assert run(swapped, out, "casia", "reliableswap", more=["--weights", readers]) == 0
    page = (out / "protocols.md").read_text()
    tables = [part for part in page.split("\n## ") if part.startswith(("The CASIA survey", "ReliableSwap\n"))]
    assert len(tables) == 2 and "[2.60](#casia)" in tables[0] and "(#reliableswap)" not in tables[0]
    assert "10 pairs of mine (" in tables[0] and "gallery of 10 people; recogniser cosface_acc9928 (" in tables[0]
    assert "with mirrored features" in tables[0] and "mirrored" not in tables[1].partition("In brackets")[0]
    assert "Pictures as given. Swaps of any size, in the frame of the target's picture; resized" in tables[0]
    assert "\n- \\* surely differs from" in tables[0], "no list in a list"
    assert "In brackets: 95 % intervals by pairs." in tables[0] and "| ID top-1 % ↑ | [80.0](#casia) (50.0" in tables[0]
    assert "[0.0](#casia)" not in tables[0] and "] (" not in tables[0].partition("- ")[0]
    assert "(#casia)" not in tables[1] and "pose logits" in tables[1] and "pose error" not in tables[1]
    why = page.split("## Why the numbers differ")[1].split("\n## ")[0]
    assert "pose error ° by [casia](#casia): peer 2.60" in why and "pose logits L2 by [reliableswap]" in why
    assert "not degrees (reliableswap)" in why and "flip: features of the crop" in why
    for name in ("casia", "reliableswap"):
        assert f"\n## {name}\n" in page, "every link has its heading"


def test_a_missing_network_is_named_with_its_source_and_the_rest_is_measured(readers, swapped, tmp_path, capsys):
    (readers / CARDS["cosface_acc9928"].file).unlink()
    out = tmp_path / "out"
    assert run(swapped, out, "casia", more=["--weights", readers]) == 0
    printed = capsys.readouterr().out
    lacking = "not measured: id_retrieval, id_similarity: weights 'cosface_acc9928': CosFace_ACC99.28.pth is missing"
    assert f"{lacking}; get it" in printed and printed.count("CosFace_ACC99.28.pth is missing") == 1
    assert "face-swapping-survey" in printed and "name its folder with --weights" in printed and "None" not in printed
    assert values(out, "casia").keys() == {"pose_error_deg", "expression_error", "ssim_source"}
    content = json.loads((out / "casia" / "metrics.json").read_text())
    assert "CosFace_ACC99.28.pth is missing" in content["not_measured"]["id_similarity"]
    page = (out / "protocols.md").read_text()
    assert (
        "- not measured: id_retrieval, id_similarity: weights 'cosface_acc9928': CosFace_ACC99.28.pth is miss" in page
    )


def test_without_any_file_the_command_fails_and_names_all(swapped, tmp_path, capsys):
    assert run(swapped, tmp_path / "out", "reface") == 2
    errors = capsys.readouterr().err
    assert "hopenet_robust_alpha1.pkl is missing; get it from https://github.com/natanielruiz" in errors
    assert "epoch_20.pth is missing" in errors and "--protocol: 1 of 1 left out: reface: id_retrieval" in errors
    assert not (tmp_path / "out" / "protocols.md").exists()


def test_a_protocol_without_its_files_is_left_out_and_the_others_are_measured(readers, swapped, tmp_path, monkeypatch,
                                                                              capsys):  # fmt: skip
    monkeypatch.delenv("SWAPDISTILL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for names in (["casia", "ours"], ["ours", "casia"]):
        out = tmp_path / "-".join(names)
        assert run(swapped, out, *names, more=["--weights", readers]) == 2
        captured = capsys.readouterr()
        assert "--protocol: 1 of 2 left out: ours: weights 'xiaoccer_128': mobilefacenet_xiaoccer" in captured.err
        assert "by --protocol ours alone, --recogniser, --pose and --expression name other networks" in captured.err
        assert "get it from https://github.com/Xiaoccer" in captured.err and str(out / "protocols.md") in captured.out
        page = (out / "protocols.md").read_text()
        assert "[80.0](#casia)" in page and "## This project\n\nLeft out: weights 'xiaoccer_128'" in page


def test_ours_on_whole_pictures_is_warned_of(readers, swapped, tmp_path, capsys):
    root = tmp_path / "pictures"
    (tmp_path / "points").mkdir()
    for path in root.glob("*.png"):
        (tmp_path / "points" / f"{path.stem}.txt").write_text("9 9\n20 9\n15 15\n10 22\n20 22\n")
    whole = tmp_path / "whole"
    listed.write(
        "whole", listed.from_csv(tmp_path / "mine.csv"), root, whole, resolution=SIDE, landmarks=tmp_path / "points"
    )
    more = [*OWN, "--weights", readers, "--metrics", "id_retrieval"]
    assert run((whole, swapped[1]), tmp_path / "out", "ours", more=more) == 0
    text = "ours reads canonical crops, but the pictures of whole are whole ones: write a second list with --align"
    assert text in capsys.readouterr().out and text in (tmp_path / "out" / "protocols.md").read_text()
    assert run(swapped, tmp_path / "other", "ours", more=more) == 0 and "whole ones" not in capsys.readouterr().out


def test_a_folder_of_weights_that_does_not_exist_is_an_option_s_error(swapped, tmp_path, capsys):
    assert run(swapped, tmp_path / "out", "casia", more=["--weights", tmp_path / "nowhere"]) == 2
    captured = capsys.readouterr()
    assert "no such folder" in captured.err and "left out" not in captured.err and "protocol casia" not in captured.out


def test_damaged_weights_name_file_and_key(swapped, tmp_path, capsys):
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"fc.weight": torch.zeros(512, 9)}, folder / "CosFace_ACC99.28.pth")
    (folder / "hopenet_robust_alpha1.pkl").write_text("<html>")
    for metric, message in (("id_retrieval", "layer1.0.weight"), ("pose_error", "hopenet_robust_alpha1.pkl")):
        more = ["--weights", folder, "--metrics", metric]
        assert run(swapped, tmp_path / metric, "casia", more=more) == 2
        assert message in capsys.readouterr().err


DAMAGED = [
    ("reliableswap", "net_sphere20_data_vggface2_acc_9955.pth", [], "layer1.0.weight"),
    ("reface", "epoch_20.pth", [], "backbone.conv1.weight"),
    ("ours", "synthetic_recogniser.safetensors", OWN, "synthetic_recogniser.safetensors"),
]


@pytest.mark.parametrize(("name", "file", "more", "message"), DAMAGED, ids=[one[0] for one in DAMAGED])
def test_damaged_files_of_each_protocol_are_named(name, file, more, message, swapped, tmp_path, capsys):
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"fc.weight": torch.zeros(512, 9)}, folder / file)
    metric = {"reface": "expression_error"}.get(name, "id_retrieval")
    out = tmp_path / "out"
    assert run(swapped, out, name, more=["--weights", folder, "--metrics", metric, *more]) == 2
    errors = capsys.readouterr().err
    assert f"left out: {name}: " in errors and file in errors and message in errors


@pytest.mark.parametrize("name", ["casia", "reliableswap", "reface", "ours"])
def test_a_damaged_swap_stops_every_protocol(name, readers, swapped, tmp_path, capsys):
    (swapped[1] / "s2-t2.png").write_bytes((swapped[1] / "s2-t2.png").read_bytes()[:60])
    more = [*(OWN if name == "ours" else ()), "--weights", readers]
    assert run(swapped, tmp_path / "out", name, more=more) == 2
    assert "s2-t2.png" in capsys.readouterr().err


def test_names_and_options_that_a_protocol_does_not_take(readers, swapped, tmp_path, capsys):
    for names, more, message in (
        (["cassia"], [], "unknown protocol 'cassia'; did you mean 'casia'?"),
        (["casia"], ["--recogniser", "xiaoccer_128"], "name their own estimators; leave out --recogniser"),
        (["reface"], ["--metrics", "ssim_source"], "protocol reface has none of them"),
    ):
        assert run(swapped, tmp_path / "out", *names, more=["--weights", readers, *more]) == 2
        assert message in capsys.readouterr().err


def test_missing_swaps_are_counted_and_named(readers, swapped, tmp_path, capsys):
    for i in (0, 4):
        (swapped[1] / f"s{i}-t{i}.png").unlink()
    assert run(swapped, tmp_path / "out", "reface", more=["--weights", readers]) == 2
    assert "peer lacks 2 of 10 swaps (s0-t0, s4-t4)" in capsys.readouterr().err
    assert run(swapped, tmp_path / "out", "reface", more=["--weights", readers, "--skip-missing"]) == 0
    content = json.loads((tmp_path / "out" / "reface" / "metrics.json").read_text())
    assert content["pairs"]["count"] == 8
    assert content["pairs"]["skipped"][0] == {"what": "s0-t0", "reason": "no such swap of peer"}
    assert values(tmp_path / "out", "reface")["pose_error_deg"] == pytest.approx(26 / 8)
    Image.new("RGB", (4, 4)).save(swapped[1] / "s0-t0.gif")
    (swapped[1] / "s4-t4.png").write_text("no picture")
    assert run(swapped, tmp_path / "out", "reface", more=["--weights", readers]) == 2
    assert "s4-t4.png: not a readable picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda book: book["casia"].pop("facts"), "casia: lacks 'facts'"),
        (lambda book: book["casia"].update(network="x"), "casia: unknown key 'network'"),
        (lambda book: book["casia"]["metrics"].update(id=[]), "unknown metric 'id'"),
        (
            lambda book: book["casia"]["metrics"].update(pose_error=["pose_error"]),
            "pose_error has no value 'pose_error'",
        ),
        (lambda book: book["reface"]["estimators"].pop("pose"), "reface: estimators: lacks 'pose'"),
        (lambda book: book["reface"]["estimators"].update(pose="hope"), "estimators.pose: unknown card 'hope'"),
        (lambda book: book["ours"].update(gallery="all"), "gallery: expected list or sources, got 'all'"),
        (lambda book: book["ours"]["facts"].pop("flip"), "facts: lacks 'flip' in words"),
        (lambda book: book["reface"].update(masks="ffhq"), "reface: masks: expected true or false, got 'ffhq'"),
    ],
)
def test_a_damaged_book_of_protocols_is_named(tmp_path, change, message):
    book = yaml.safe_load(protocols.FILE.read_text())
    change(book)
    path = tmp_path / "book.yaml"
    path.write_text(yaml.safe_dump(book))
    with pytest.raises(ConfigError, match=message):
        protocols.read(path)


def test_the_gallery_of_sources_has_each_person_once(swapped):
    pairs, _ = read(swapped[0])
    own = protocols.with_gallery(protocols.read()["reliableswap"], pairs)
    assert torch.equal(own.gallery, pairs.source[own.gallery_person.argsort()]) and own.gallery_holds_sources
    assert own.protocol["measured_by"] == "reliableswap" and "measured_by" not in pairs.protocol
    assert protocols.with_gallery(protocols.read()["ours"], pairs) is pairs


def test_the_page_of_the_docs_has_the_texts_of_the_book():
    page = (ROOT / "docs" / "protocols.md").read_text()
    assert protocols.rewritten(page) == page, "give `python -m distill.report protocols`"
    with pytest.raises(ConfigError, match="no place for the protocols"):
        protocols.rewritten("# Page\n")
