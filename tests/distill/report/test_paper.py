"""The paper's tables: where each cell comes from, what may stand beside what, and the three files."""

import copy
import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from conftest import ROOT, SHARED, needs_shared

from distill.report import paper, paper_pages, published, sizes, tables
from distill.report.__main__ import main
from distill.report.published import PaperError
from distill.report.results import find_results, read_result
from eval import intervals

PROTOCOL = {"recogniser": {"name": "r", "weight_hash": "00"}, "pairs_hash": "aa", "flip": "none", "pairs": "one"}


def value(number, **protocol):
    return {
        "value": number, "unit": "%", "better": "higher", "n": 10, "interval": [number - 1, number + 1],
        "protocol": {**PROTOCOL, **protocol}, "details": {}, "seconds": 0.1,
    }  # fmt: skip


def result(folder, rows, **pairs):
    pairs = {"name": "toy", "hash": "aa", "count": 10, "gallery": 5, **pairs}
    folder.mkdir(parents=True, exist_ok=True)
    content = {"experiment": folder.name, "pairs": pairs, "rows": rows, "environment": {"commit": "c" * 40}}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def all_tables():
    return paper.tables()


@pytest.fixture
def book():
    return yaml.safe_load(sizes.PUBLISHED.read_text())


def write_book(tmp_path, book):
    path = tmp_path / "book.yaml"
    path.write_text(yaml.safe_dump(book))
    return path


def test_every_cell_is_measured_quoted_or_unknown(all_tables):
    for cell in (cell for table in all_tables for cell in table.cells()):
        assert (cell.state == "measured") == (cell.measured is not None)
        assert (cell.state == "quoted") == (cell.measured is None and cell.published is not None)
        assert cell.published is None or (cell.published_source and cell.sure in ("seen", "secondary"))
        assert cell.measured is None or cell.measured_from
        assert cell.state != "unknown" or "Unknown: " in cell.note


def test_the_size_table_is_rebuilt_in_its_own_units(all_tables):
    sizes_of = {system: row["size"] for system, row in all_tables[0].rows.items()}
    shown = {system: (cell.published, round(cell.measured, 1)) for system, cell in sizes_of.items()}
    assert shown["MobileFSGAN/generator"] == (10.2, 10.2) and shown["MobileFSGAN/MobileFaceNet"] == (4.9, 4.9)
    assert shown["SimSwap/generator"] == (220.2, 220.2) and shown["MegaFS/StyleGAN2"] == (364.0, 364.0)
    lost = sizes_of["FaceShifter/AEI-Net"]
    assert lost.difference > 0 and "Not reproduced: +5.1 %" in lost.note and "No public implementation" in lost.note


@needs_shared
def test_no_number_that_is_only_remembered_is_shown(all_tables):
    """Numbers of the collection's lines that nobody read are in no cell of that method and protocol."""
    text = (SHARED / "specs" / "published.md").read_text()
    own = next(table for table in all_tables if table.name == "ffpp_papers")
    for system in ("DeepFakes", "IPGAN"):
        line = next(line for line in text.splitlines() if line.startswith(f"| {system} |"))
        assert "[MEMORY]" in line
        assert {cell.state for cell in own.rows[system].values()} == {"unknown"}
    shown = {cell.published for row in own.rows.values() for cell in row.values()}
    assert not shown & {97.38, 81.96, 82.41, 4.14, 2.51, 90.83, 2.06, 2.57}
    elsewhere = ("casia_cross_ethnicity", "casia_cross_attribute", "reface_ffhq", "reface_ffhq_unmasked")  # read there
    collected = [table for table in all_tables if table.name not in elsewhere]
    quoted = {cell.published for table in collected for cell in table.cells() if cell.state == "quoted"}
    numbers = set(map(float, re.findall(r"\d*\.\d+|\d+", text)))
    facedancer = {7.07, 5.74, 4.13, 4.15, 4.19}  # read in its README, not in the collection
    assert {number for number in quoted if abs(number) not in numbers} <= facedancer


def test_a_table_has_one_protocol_and_ours_stands_only_beside_the_same(tmp_path, book):
    rows = {"FaceShifter": {"id_retrieval_top1_pct": value(90.0), "pose_error_deg": {**value(3.0), "unit": "degrees"}}}
    other = result(tmp_path / "other", rows, protocol={"dataset": "LFW"})
    same = result(tmp_path / "same", rows, protocol={"dataset": "FaceForensics++"}, count=9950, gallery=1000, hash="bb")

    def cell(*results):
        table = next(t for t in paper.tables(results) if t.name == "ffpp_papers")
        return table.rows["FaceShifter"]["id_retrieval_top1_pct"]

    assert cell(other).state == "quoted" and cell(other).other and cell(other).difference is None
    assert cell(same).state == "measured" and cell(same).difference == pytest.approx(90.0 - 97.83)
    assert "unknown of the published one: gallery" in cell(same).note and cell(same).interval == (89.0, 91.0)
    pose = next(t for t in paper.tables([same]) if t.name == "ffpp_papers").rows["FaceShifter"]["pose_error_deg"]
    assert pose.state == "quoted" and pose.other  # of the published one the unit is unknown
    merged = result(
        tmp_path / "merged", rows, protocol={"dataset": "FaceForensics++"}, count=9950, gallery=885, hash="cc"
    )
    assert cell(merged).state == "quoted"


def test_an_evaluation_by_protocols_is_found_beside_one_without(tmp_path):
    rows = {"a": {"id_retrieval_top1_pct": value(1.0)}}
    own, inside = result(tmp_path / "lists", rows), result(tmp_path / "lists" / "ours", rows)
    assert find_results([own]) == [own / "metrics.json", inside / "metrics.json"]
    (own / "experiment.yaml").touch()
    assert find_results([own]) == [own / "metrics.json"], "a run, whose folders are its stages"
    assert find_results([own / "metrics.json"]) == [own / "metrics.json"]


def test_runs_share_a_table_only_where_pairs_and_protocols_are_the_same(tmp_path):
    one = {"a": {"id_retrieval_top1_pct": value(1.0)}}
    folders = [
        result(tmp_path / "first", one),
        result(tmp_path / "second", {"b": {"id_retrieval_top1_pct": value(2.0, pairs="another name")}}),
        result(tmp_path / "third", {"c": {"id_retrieval_top1_pct": value(3.0, flip="both")}}),
        result(tmp_path / "fourth", {"d": {"id_retrieval_top1_pct": value(4.0)}}, hash="bb"),
    ]
    own = [t for t in paper.tables([tmp_path]) if t.name.startswith("measured_")]
    assert len(folders) == 4 and sorted(len(t.rows) for t in own) == [1, 1, 2]
    shared = next(t for t in own if len(t.rows) == 2)
    assert list(shared.rows) == ["a (first)", "b (second)"] and "aa" in shared.protocol["pairs"]


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": {}}', '{"pairs": 1, "rows": 2, "environment": 3}'])
def test_damaged_results_are_named(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(PaperError, match="metrics.json: "):
        paper.tables([tmp_path])
    with pytest.raises(PaperError, match="absent: no such file"):
        paper.tables([tmp_path / "absent"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["tables"][1]["rows"][0].pop("unknown"), "no number, and no reason"),
        (lambda b: b["tables"][1].pop("source"), "a number without a known source"),
        (lambda b: b["tables"][1].update(sure="memory"), "'sure' is seen or secondary, got 'memory'"),
        (lambda b: b["tables"][1].update(protocol="mine"), "unknown protocol 'mine'"),
        (lambda b: b["tables"][1]["rows"][1]["cells"].update(beauty=1), "'beauty' is no column"),
        (lambda b: b["tables"][1]["rows"].append(b["tables"][1]["rows"][0]), "expected one row of this name"),
        (lambda b: b.pop("protocols"), "lacks 'protocols'"),
    ],
)
def test_a_book_with_a_gap_is_refused(tmp_path, book, change, message):
    changed = copy.deepcopy(book)
    change(changed)
    with pytest.raises(PaperError, match=message):
        published.read(write_book(tmp_path, changed))


class Reader(HTMLParser):
    """Checks that tags are closed in their order, and keeps what would be fetched."""

    ALONE = {"meta", "br"}
    IMPLIED = {"html"}

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.tables = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.tables += tag == "table"
        self.fetched += [v for k, v in attributes if k in ("src", "href")]
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(all_tables):
    page = paper_pages.html(all_tables)
    reader = Reader()
    reader.feed(page)
    assert reader.open == [] and reader.fetched == [] and reader.tables == len(all_tables)
    assert "url(" not in page and "@import" not in page and "<script" not in page


def test_the_csv_holds_every_cell(all_tables):
    lines = list(csv.DictReader(io.StringIO(paper_pages.csv(all_tables))))
    cells = [
        (table, system, metric, cell)
        for table in all_tables
        for system, row in table.rows.items()
        for metric, cell in row.items()
    ]
    assert len(lines) == len(cells)
    for line, (table, system, metric, cell) in zip(lines, cells, strict=True):
        assert (line["table"], line["system"], line["metric"], line["state"]) == (
            table.name, system, metric, cell.state,
        )  # fmt: skip
        assert line["protocol"].startswith(f"{table.protocol_name}. ")
        for key in ("published", "measured", "difference"):
            number = getattr(cell, key)
            assert line[key] == "" if number is None else float(line[key]) == number


def test_the_command_writes_all_three(tmp_path, capsys):
    kept = ROOT / "experiments" / "results" / "quickstart"
    assert main(["paper", "--out", str(tmp_path), "--results", str(kept)]) == 0
    printed = capsys.readouterr().out
    assert "MobileFSGAN/generator | 10.2 | **10.2** | ±0.0" in printed and " unknown" in printed
    text = (tmp_path / "paper.md").read_text()
    exact = json.loads((kept / "metrics.json").read_text())["rows"]["exact"]["id_retrieval_top1_pct"]["value"]
    assert "Measured here: quickstart" in text and f"**{exact:.1f}**" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["paper.csv", "paper.html", "paper.md"]
    assert main(["paper", "--out", str(tmp_path), "--results", str(tmp_path / "absent")]) == 2
    assert "absent: no such file" in capsys.readouterr().err


def test_without_results_the_tables_say_so(tmp_path, capsys, monkeypatch):
    """As the installed command does outside a clone, where experiments/results is not there."""
    monkeypatch.setattr("distill.report.__main__.ROOT", tmp_path)
    assert main(["paper", "--out", str(tmp_path / "paper")]) == 0
    sentence = "published numbers and computed sizes only, since no results were given"
    assert sentence in capsys.readouterr().out
    assert all(sentence in (tmp_path / "paper" / name).read_text() for name in ("paper.md", "paper.html"))
    assert "Measured here" not in (tmp_path / "paper" / "paper.md").read_text()


def networks(number, **parts):
    return {**value(number), "interval": None, "protocol": {}, "details": {"parts": parts}}


def test_tables_show_each_network_where_there_are_several():
    size = networks(7.75, identity_encoder=3.26, generator=4.49)
    rows = {
        "student": {"size_mb": size},
        "warp": {"size_mb": networks(3.74, landmarks=3.74)},
        "copy": {"id_retrieval_top1_pct": value(0.0)},
    }
    lines = tables.as_text(rows).splitlines()
    assert next(line for line in lines if "of its networks" in line).split()[3:] == ["4.49", "+", "3.26", "–", "–"]
    assert len({len(line) for line in lines if line}) == 1
    page = tables.as_html(rows, ["student"])
    assert "generator 4.49<br>identity_encoder 3.26" in page and "landmarks" not in page
    quick = networks(8.0) | {"details": {"p10": 7.5, "p90": 9.0}}
    assert "8.0<br><small>runs 7.5 – 9.0</small>" in tables.as_html({"student": {"latency_ms": quick}}, [])


def test_the_tables_of_runs_name_crop_and_colours_and_each_network(tmp_path):
    size = networks(7.75, identity_encoder=3.26, generator=4.49)
    estimator = {"name": "r", "weight_hash": "00", "crop": "whole frame", "colour_order": "bgr"}
    result(tmp_path / "run", {"student": {"id_retrieval_top1_pct": value(1.0, recogniser=estimator), "size_mb": size}})
    own = next(t for t in paper.tables([tmp_path]) if t.name == "measured_1")
    assert own.protocol["recogniser"] == "r, weights 00; whole frame; bgr"
    assert own.rows["student"]["size_mb"].note == "generator 4.49 + identity_encoder 3.26"


def test_a_row_that_was_taken_over_names_the_commit_that_measured_it(tmp_path):
    rows = {"old": {"id_retrieval_top1_pct": value(50.0)}, "new": {"id_retrieval_top1_pct": value(60.0)}}
    folder = result(tmp_path / "run", rows)
    content = json.loads((folder / "metrics.json").read_text())
    content["environments"] = {"old": {"commit": "a" * 40}, "new": {"commit": "c" * 40}}
    (folder / "metrics.json").write_text(json.dumps(content))
    shown = paper.measured_tables([read_result(folder / "metrics.json")])[0].rows
    origins = {name: row["id_retrieval_top1_pct"].measured_from[-10:] for name, row in shown.items()}
    assert origins == {"old": "a" * 10, "new": "c" * 10}


def test_intervals_of_two_units_share_no_table(tmp_path):
    """Results that do not name the unit drew pairs."""
    for unit, same in (("pairs", True), ("people", False)):
        named = value(60.0, interval=intervals.protocol(unit)) | {"caution": "of few pairs"}
        rows = {"old": {"id_retrieval_top1_pct": value(50.0)}, "new": {"id_retrieval_top1_pct": named}}
        shown = paper.measured_tables([read_result(result(tmp_path / unit, rows) / "metrics.json")])
        assert len(shown) == (1 if same else 2) and f"unit {unit}" in shown[-1].protocol["interval"]
        assert shown[-1].rows["new"]["id_retrieval_top1_pct"].note == "of few pairs"


def test_the_field_has_a_section_for_each_protocol_and_values_link_to_it(tmp_path, capsys):
    measured = {"measured_by": "casia", "dataset": "CASIA FaceSwapping", "split": "Normal"}
    facts = {"alignment": "as given", "landmarks": "from files"}
    one = value(91.5, recogniser={"name": "cosface_acc9928"}, flip="image and mirror image, concatenated")
    rows = {"simswap": {"id_retrieval_top1_pct": one}, "mine": {"id_retrieval_top1_pct": one}}
    whole = {"count": 4500, "gallery": 1291, "hash": "bb"}
    result(tmp_path / "full" / "casia", rows, protocol=measured | facts, **whole)
    result(tmp_path / "full" / "plain", {"own": {"id_retrieval_top1_pct": value(60.0)}})
    result(tmp_path / "aligned" / "casia", rows, protocol=measured | facts | {"alignment": "by landmarks"}, **whole)

    def cell(name):
        table = next(t for t in paper.field([tmp_path / name]) if t.name == "casia_normal")
        return table.rows["SimSwap"]["id_retrieval_top1_pct"]

    assert (
        cell("full").difference == pytest.approx(1.5) and cell("aligned").difference is None and cell("aligned").other
    )
    assert main(["field", "--out", str(tmp_path / "out"), "--results", str(tmp_path / "full")]) == 0
    assert "no two share a table" in capsys.readouterr().out
    text = (tmp_path / "out" / "field.md").read_text()
    headings = re.findall(r"^## (\S+)$", text, re.M)
    links = re.findall(r"\]\(#(\S+?)\)", text)
    assert len(headings) == len(set(headings)) and set(links) <= set(headings) and len(links) > 150
    section = text.split("\n## casia_normal\n")[1].split("\n## ")[0]
    assert "[**91.50**](#casia_normal)" in section and "published 90.00, +1.50" in section
    assert {link for link in re.findall(r"\]\(#(\S+?)\)", section)} == {"casia_normal"}
    assert "own" in text.split("\n## measured_1_ours\n")[1] and "docs/protocols.md#ours" in text
    assert "docs/protocols.md#casia" in section and "mine" in text.split("Measured here: casia")[1]
    assert "inference weights" not in text and len(list(csv.DictReader((tmp_path / "out" / "field.csv").open()))) > 150
