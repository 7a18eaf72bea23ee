"""Networks by their names in an experiment, checked before the first stage."""

import pytest

from distill import build, config
from distill.config import ConfigError
from swapcore.weights import WeightsError


def test_all_weights_that_a_run_lacks_are_named_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SWAPDISTILL_WEIGHTS", raising=False)
    exp = config.default("lacks", ["eval.recogniser=xiaoccer_128", "pseudo_gt.quality.pose=3ddfa_v2_mb05"])
    with pytest.raises(WeightsError) as refused:
        build.check_names(exp)
    message = str(refused.value)
    assert message.count("is missing; get it from") == 2 and "\n" not in message
    assert "weights 'xiaoccer_128'" in message and "weights '3ddfa_v2_param_mean_std'" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<!DOCTYPE html>", "is a web page; download the file itself"), (b"", "is empty .*; download it again")],
)
def test_a_file_that_is_none_is_named_before_the_first_stage(content, message, tmp_path):
    (tmp_path / "G.pth").write_bytes(content)
    teacher = f"{{name: faceshifter, weights: {{generator: {tmp_path}/G.pth}}}}"
    exp = config.default("page", [f"pseudo_gt.teachers=[{teacher}]"])
    with pytest.raises(ConfigError, match=rf"^pseudo_gt\.teachers: weights\.generator: .*G\.pth: {message}"):
        build.check_names(exp)
