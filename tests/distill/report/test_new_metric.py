"""A metric is one file and one line in METRICS: with that, its values appear in every table, page and record."""

import pytest
from conftest import tracking_uri
from helpers.line import experiment, in_process

from distill.report import comparison, paper, paper_pages, tables
from eval import METRICS
from eval.measured import Measured
from eval.metric import Metric, Value
from swapcore.files import read_json

PAIRS = 8


def toy_score(view):
    """0.625 for every swapper, with the shares of two networks."""
    shares = {"parts": {"second": 0.5, "first": 0.125}}
    return {"toy_score": Measured(0.625, len(view.pairs), None, view.protocol(), shares)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An experiment of two variants with the toy metric alone: its folder, its tracking database, its output."""
    folder = tmp_path_factory.mktemp("toy")
    value = Value("toy_score", "toy score", "toys", "{:.4f}", "target", parts=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, "toy", Metric(toy_score, (value,)))
        uri = tracking_uri(folder)
        path = experiment(
            folder,
            "toys",
            variants={"narrow": {}, "wide": {"student.options.width": 16}},
            train={"steps": 1},
            loss={"adversarial": [0, 0, 0]},
            eval={"metrics": ["toy"]},
            tracking={"uri": uri, "experiment": "toys"},
        )
        yield in_process(path), uri


def test_metrics_json_has_it(finished):
    row = read_json(finished[0] / "narrow" / "metrics.json")["rows"]["compact"]
    assert set(row) == {"toy_score"}
    assert row["toy_score"]["value"] == 0.625 and row["toy_score"]["n"] == PAIRS
    assert row["toy_score"]["unit"] == "toys" and row["toy_score"]["better"] == "target"


def test_the_terminal_has_it(finished):
    text = tables.as_text(read_json(finished[0] / "narrow" / "metrics.json")["rows"])
    lines = [line.split() for line in text.splitlines() if line]
    assert lines[1][:4] == ["toy", "score", "→←", "0.6250"]
    assert "0.1250 + 0.5000" in text


def test_the_page_has_it(finished):
    page = (finished[0] / "narrow" / "report.html").read_text()
    assert "<td>toy score →←</td>" in page and "0.6250" in page and "first 0.1250" in page


def test_the_comparison_has_it(finished):
    table = (finished[0] / "comparison.md").read_text()
    assert "| toy score →← |" in table and "0.6250" in table
    rows = read_json(finished[0] / "comparison.json")["rows"]
    assert {row["values"]["toy_score"]["mean"] for row in rows.values()} == {0.625} and len(rows) == 2


def test_the_plot_has_it_where_it_is_a_cost(monkeypatch):
    value = Value("toy_cost", "toy cost", "toys", better="lower", cost=True)
    monkeypatch.setitem(METRICS, "toy", Metric(toy_score, (value,)))
    rows = {
        name: {"values": {key: {"mean": mean, "spread": None} for key in ("toy_cost", comparison.QUALITY)}}
        for name, mean in (("narrow", 1.0), ("wide", 2.0))
    }
    figure = comparison.plot("toys", {"rows": rows})
    assert [axes.get_xlabel() for axes in figure.axes] == ["toy cost"]
    for row in rows.values():
        row["values"]["gradient_correlation"] = {"mean": 0.5, "spread": None}
    figure = comparison.plot("toys", {"rows": rows})
    assert [axes.get_ylabel() for axes in figure.axes] == ["ID top-1 %", "gradient correlation"]


def test_the_papers_tables_have_it(finished, tmp_path):
    paper_pages.write(tmp_path, paper.tables([finished[0] / "narrow"]))
    for name in ("paper.md", "paper.html"):
        assert "toy score" in (tmp_path / name).read_text(), name
    assert "toy_score" in (tmp_path / "paper.csv").read_text()


def test_mlflow_has_it(finished, mlflow):
    mlflow.set_tracking_uri(finished[1])
    runs = mlflow.search_runs(experiment_names=["toys"])
    for name in ("metrics.toy_score", "metrics.eval/compact/toy_score", "metrics.eval/copy-target/toy_score"):
        assert sorted(runs[name].dropna()) == [0.625, 0.625], name
