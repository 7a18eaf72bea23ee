"""Networks by their names in an experiment, checked before the first stage."""

import pytest

from distill import build, config
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
