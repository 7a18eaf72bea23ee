"""The tables of experiments/README.md are written from the kept comparisons."""

import json

import pytest
from conftest import ROOT

from distill.config import ConfigError
from distill.report import experiments
from distill.report.__main__ import main

RESULTS = ROOT / "experiments" / "results"
PAGE = "# Title\n\n<!-- students -->\n| old |\n<!-- /students -->\n\nText.\n"


def test_a_table_is_written_anew_and_the_rest_stays(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert main(["experiments", "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- students -->\n| variant | seeds |") and text.endswith("\n\nText.\n")
    rows = json.loads((RESULTS / "students/comparison.json").read_text())["rows"]
    assert all(f"\n| {name} |" in text for name in rows)
    assert "students changed" in capsys.readouterr().out
    assert main(["experiments", "--page", str(page)]) == 0 and page.read_text() == text
    assert "no table changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PAGE.replace("students", "absent"), "absent: no comparison.json; run the experiment"),
        ("# Title\n", "no table: mark its place"),
        (PAGE.replace("/students", "/others"), "no table: mark its place"),
    ],
)
def test_a_page_that_cannot_be_filled_stays_as_it_is(text, message, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(text)
    assert main(["experiments", "--page", str(page)]) == 2
    assert message in capsys.readouterr().err and page.read_text() == text
    with pytest.raises(ConfigError):
        experiments.tables(text, RESULTS)
