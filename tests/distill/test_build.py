"""Networks by their names in an experiment, checked before the first stage."""

import pytest
import torch

import students
from distill import build, config
from distill.config import ConfigError
from students.identity_encoder import CARDS as ENCODERS
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.perceptual_network=foo"], "loss.perceptual_network: unknown network 'foo'; known: identity_encoder"),
        (["loss.discriminator={kind: foo}"], "loss.discriminator: unknown discriminator 'foo'"),
        (["loss.attribute=1"], "loss.attribute: only faceshifter and mobilefsgan have attribute maps"),
        (["distil.gram=1", "loss.perceptual_network=lpips"], "distil.gram: loss.perceptual_network=lpips has no maps"),
        (["distil.online=nosuch"], "distil.online: unknown teacher 'nosuch'"),
        (
            ["distil.online={name: simswap, weights: {generator: absent.pth}}"],
            "distil.online: weights.generator: absent",
        ),
        (
            ["pseudo_gt.teachers=[{name: exact, options: {colour: x}}]"],
            "pseudo_gt.teachers: options of 'exact': .*colour",
        ),
        (
            [
                "student.name=faceshifter",
                "student.options={}",
                "stages=[train, refine]",
                "refine.options={nonsense: 1}",
            ],
            "refine.options: .*nonsense",
        ),
        (["student.name=faceshifter", "stages=[export]", "export.to=[tnn]"], "stages: export writes students"),
    ],
)
def test_mistakes_that_would_show_after_hours_are_named_before_the_first_stage(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build.check_names(config.default("mistaken", ["student.name=unet", *overrides]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.perceptual_network=vgg16", "eval.perceptual=lpips_vgg"], "eval.perceptual: 'lpips_vgg'"),
        (["loss.perceptual_network=squeezenet_compressed", "eval.features=squeezenet1_0"], "eval.features: 'squeeze"),
        (
            ["loss.perceptual_network=vgg16", "loss.perceptual=0", "distil.gram=1", "eval.perceptual=lpips_vgg"],
            "eval.perceptual: 'lpips_vgg'",
        ),
        (
            [
                "student.name=faceshifter",
                "refine.loss.perceptual_network=vgg16",
                "refine.loss.perceptual=1",
                "eval.perceptual=lpips_vgg",
                "stages=[data, train, refine, eval]",
            ],
            "eval.perceptual: 'lpips_vgg'",
        ),
    ],
)
def test_a_network_that_a_loss_reads_must_not_evaluate(overrides, message):
    exp = config.default("x", ["student.name=unet", "eval.metrics=[lpips, fid]", *overrides])
    with pytest.raises(ConfigError, match=message + r".* is also the network of loss\.perceptual_network"):
        build.check_names(exp)


def saved_student(path, name="unet", encoder="synthetic_identity", **options):
    shapes = {"embedding_dim": ENCODERS["synthetic_identity"].embedding_dim, "resolution": 64, "width": 16}
    generator = students.build(name, **{**shapes, **options})
    students.save(generator, path, identity_encoder=encoder)
    return generator


def starting_from(path, name="unet", width=16):
    return config.default(
        "start", [f"student.weights={path}", f"student.name={name}", f"student.options={{width: {width}}}"]
    )


def test_a_student_starts_from_the_weights_of_a_trained_one_of_another_resolution(tmp_path):
    trained = saved_student(tmp_path / "a.safetensors", resolution=96)
    exp = starting_from(tmp_path / "a.safetensors")
    build.check_names(exp)
    made = build.learner(exp, build.identity_encoder(exp)).net
    assert made.options["resolution"] == exp.data.resolution != 96
    for (key, value), other in zip(made.state_dict().items(), trained.state_dict().values(), strict=True):
        assert torch.equal(value, other), key


@pytest.mark.parametrize("name", ["unet", "compact", "mobilefsgan"])
def test_after_another_identity_encoder_only_what_reads_embeddings_starts_anew(name, tmp_path):
    saved_student(tmp_path / "a.safetensors", name, "foamliu_128", embedding_dim=128)
    trained = students.load(tmp_path / "a.safetensors")
    exp = starting_from(tmp_path / "a.safetensors", name)
    made = build.learner(exp, build.identity_encoder(exp)).net
    anew = [key for key, value in made.state_dict().items() if value.shape != trained.state_dict()[key].shape]
    kept = [key for key, value in made.state_dict().items() if torch.equal(value, trained.state_dict()[key])]
    assert anew and sorted(anew + kept) == sorted(made.state_dict())


def test_the_maps_of_another_identity_encoder_need_no_option(tmp_path):
    """mobilefaceswap reads a map of the encoder, whose shape follows from it, too."""
    trained = students.build("mobilefaceswap", embedding_dim=128, resolution=64, map_shape=[24, 4, 4])
    students.save(trained, tmp_path / "a.safetensors", identity_encoder="foamliu_128")
    exp = config.default("x", ["student.name=mobilefaceswap", f"student.weights={tmp_path}/a.safetensors"])
    made = build.learner(exp, build.identity_encoder(exp)).net
    assert made.options["map_shape"] != [24, 4, 4]
    anew = {key for key, value in made.state_dict().items() if value.shape != trained.state_dict()[key].shape}
    kept = {key for key, value in made.state_dict().items() if torch.equal(value, trained.state_dict()[key])}
    assert "predictor.first.weight" in anew and anew | kept == set(made.state_dict())


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        ({}, {"width": 32}, r"its option width is 16; set student\.options"),
        ({"name": "compact"}, {}, "holds the student 'compact', expected 'unet'"),
        ({}, {"name": "faceshifter"}, "a teacher, which always starts from random weights"),
    ],
)
def test_a_student_does_not_start_from_weights_of_something_else(saved, asked, message, tmp_path):
    saved_student(tmp_path / "a.safetensors", **saved)
    with pytest.raises(ConfigError, match=r"^student\.weights: .*a\.safetensors.*" + message):
        build.check_names(starting_from(tmp_path / "a.safetensors", **asked))


def test_a_missing_or_damaged_file_to_start_from_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^student\.weights: .*b\.safetensors: no such file"):
        build.check_names(starting_from(tmp_path / "b.safetensors"))
    (tmp_path / "b.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ConfigError, match=r"^student\.weights: .*b\.safetensors"):
        build.check_names(starting_from(tmp_path / "b.safetensors"))
