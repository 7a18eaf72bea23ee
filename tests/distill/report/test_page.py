"""HTML comes from templates, which escape text."""

from conftest import ROOT

from distill.report import tables


def test_text_is_escaped_in_the_table():
    value = {"value": 1.0, "unit": "", "better": None, "protocol": {}, "details": {}, "interval": None}
    page = tables.as_html({"<script>": {"key & <b>": value}}, [])
    assert "&lt;script&gt;" in page and "key &amp; &lt;b&gt;" in page and "<script" not in page and "<b>" not in page


def test_no_python_file_of_the_room_holds_html():
    files = sorted((ROOT / "distill" / "report").glob("*.py"))
    assert len(files) > 5 and not [path.name for path in files if "</" in path.read_text()]
