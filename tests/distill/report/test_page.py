"""HTML comes from templates, which escape text."""

from conftest import ROOT

from distill.report import comparison, page, tables
from swapcore.files import read_json


def test_text_is_escaped_in_the_table():
    value = {"value": 1.0, "unit": "", "better": None, "protocol": {}, "details": {}, "interval": None}
    html = tables.as_html({"<script>": {"key & <b>": value}}, [])
    assert "&lt;script&gt;" in html and "key &amp; &lt;b&gt;" in html and "<script" not in html and "<b>" not in html


def test_no_python_file_of_the_room_holds_html():
    files = sorted((ROOT / "distill" / "report").glob("*.py"))
    assert len(files) > 5 and not [path.name for path in files if "</" in path.read_text()]


def test_names_of_teachers_may_have_dots(tmp_path):
    columns = ("source", "target", "sim-1.5", "unet")
    for name in (f"{row}.{column}.png" for row in ("00", "01") for column in columns):
        (tmp_path / name).write_bytes(b"a picture")
    pictures = page._pictures(tmp_path, ["unet", "sim-1.5"])
    assert pictures["names"] == ["source", "target", "unet", "sim-1.5"] and len(pictures["rows"]) == 2


def content(**more):
    """A metrics.json of two rows with one value."""

    def value(number, **fields):
        protocol = {"interval": {"unit": "people"}}
        return {"value": number, "unit": "", "protocol": protocol, "interval": [number - 1, number + 1], **fields}

    rows = {"a": {"pose_error_deg": value(3.0)}, "b": {"pose_error_deg": value(12.0, caution="of few pairs")}}
    return {"rows": rows, "environment": {"commit": "now", "torch": "2"}, **more}


def differences(sure=True):
    return {"reference": "a", "rows": {"b": {"pose_error_deg": {"value": 9.0, "sure": sure}}}}


def test_marks_cautions_and_the_unit_of_intervals_in_the_table():
    rows = content()["rows"]
    lines = tables.as_text(rows, differences()).splitlines()
    assert lines[2].split() == ["pose", "error", "°", "↓", "3.00", "12.00", "*!"]
    assert lines[3].split() == ["95", "%", "by", "people", "2.00–4.00", "11.00–13.00"]
    assert "12.00 ~!" in tables.as_text(rows, differences(sure=False)) and "12.00 !" in tables.as_text(rows)
    assert "<td>12.00 ~!<br><small>11.00 – 13.00</small></td>" in tables.as_html(rows, [], differences(sure=False))


def test_notes_under_the_table():
    then, now = {"commit": "then", "torch": "2"}, {"commit": "now", "torch": "2"}
    more = {"not_measured": {"exact_match": "unknown"}, "environments": {"a": now, "b": then}}
    assert tables.notes(content(differences=differences(), **more)) == [
        tables.marks_legend("a"),
        "! pose error °: of few pairs (b)",
        "not measured: exact_match: unknown",
        "b: taken over, measured with commit then",
    ]


def test_results_of_older_versions_are_shown():
    old = content()  # without differences, environments and not_measured; the interval names no unit
    for value in old["rows"].values():
        value["pose_error_deg"].update(protocol={}, caution=None)
    assert "95 % by pairs" in tables.as_text(old["rows"], old.get("differences")) and tables.notes(old) == []
    for path in sorted((ROOT / "experiments" / "results").glob("*/comparison.json")):
        assert comparison.markdown(read_json(path)).count("\n") > 3, path
