"""The student timm_unet: backbones of several families, what is refused by name, and where weights come from."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import students
from distill.config import Experiment
from distill.train.checkpoint import State
from students.export.models import models
from students.export.targets import TARGETS
from students.timm_unet import load_backbone

# With and without a map at 1/2, batch and layer normalisation, branches, attention, channels last, a size to be given.
BACKBONES = (
    "mobilenetv4_conv_small", "repvit_m0_9", "fastvit_t8", "efficientvit_b0", "edgenext_xx_small", "convnext_atto",
    "test_resnet", "test_mambaout", "test_coatnet",
)  # fmt: skip
SMALL = {"width": 16, "embedding_dim": 24}


def small(backbone: str = "test_resnet", resolution: int = 64, **options):
    torch.manual_seed(0)
    return students.build("timm_unet", backbone=backbone, resolution=resolution, **SMALL, **options)


def inputs(resolution: int = 64, n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(n, 3, resolution, resolution) * 2 - 1, F.normalize(torch.randn(n, 24))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_family_swaps_learns_and_comes_back_from_its_file(backbone, tmp_path):
    generator = small(backbone).train()
    images = generator(*inputs())
    assert [image.shape[-1] for image in images] == [64, 32, 16] and images[0].abs().max() <= 1
    sum(image.square().mean() for image in images).backward()
    # A last gain of zero (ResNet, RepViT) gives zero gradients at first, but a layer that is not used gives none.
    assert all(parameter.grad is not None for parameter in generator.parameters())
    moved = [key for key, parameter in generator.backbone.named_parameters() if parameter.grad.abs().sum() > 0]
    assert len(moved) > 0.4 * len(list(generator.backbone.parameters()))
    students.save(generator, tmp_path / "s.safetensors")
    loaded = students.load(tmp_path / "s.safetensors", "timm_unet")
    assert torch.equal(loaded(*inputs())[0], generator.eval()(*inputs())[0])


@pytest.mark.parametrize("backbone", ["mobilenetv4_conv_small", "efficientvit_b0", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("resolution", [96, 128, 256])
def test_other_resolutions(backbone, resolution):
    with torch.no_grad():
        assert small(backbone, resolution).eval()(*inputs(resolution, 1))[0].shape == (1, 3, resolution, resolution)


def test_its_preprocessing_is_timms():
    generator, (target, _) = small("mobilenetv4_conv_small_050"), inputs()
    config = timm.data.resolve_model_data_config(generator.backbone)
    assert (config["mean"], config["std"]) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) != (0, 1)
    mean, std = (torch.tensor(timm.get_pretrained_cfg_value("test_resnet", key)) for key in ("mean", "std"))
    generator = small()
    seen = []
    generator.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    generator(*inputs())
    wanted = ((target + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(seen[0], wanted, atol=1e-5)


def test_the_source_changes_the_swap_from_the_deepest_map_on():
    generator, (target, embedding) = small().eval(), inputs()
    seen = []
    generator.decoder.levels[-1][0].register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.no_grad():
        swaps = generator(target[:1].repeat(2, 1, 1, 1), embedding)[0]
    assert (seen[0][0] - seen[0][1]).abs().mean() > 0.01 and (swaps[0] - swaps[1]).abs().mean() > 0.01


@pytest.mark.parametrize(
    "backbone, message",
    [
        ("vit_tiny_patch16_224", "'vit_tiny_patch16_224': no map at 1/4 and 1/8; it has 1/16"),
        ("inception_v3", "'inception_v3': does not work at resolution 64: its maps are of shapes"),
        ("efficientformerv2_s0", "'efficientformerv2_s0': keeps a cache of its weights in evaluation"),
        ("hrnet_w18_small", "'hrnet_w18_small': has layers that no map needs, such as"),
        ("mobilenetv4_smal", r"'mobilenetv4_smal': timm \S+ has no such network; mobilenetv4"),
        ("hf-hub:timm/test_resnet.r160_in1k", "'hf-hub:timm/test_resnet.r160_in1k': timm .* has no such network"),
        ("test_resnet.nobody", r"'test_resnet.nobody': .*Invalid pretrained tag"),
        (3, "'3': timm .* has no such network"),
    ],
)
def test_other_backbones_are_refused_by_name(backbone, message):
    with pytest.raises(ValueError, match=f"backbone {message}"):
        small(backbone)


@pytest.fixture
def weights(tmp_path):
    """A file as timm publishes it: the whole classifier."""
    torch.manual_seed(5)
    path = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


def test_given_weights_start_a_student_whose_file_needs_them_no_more(weights, tmp_path):
    generator, file = small(pretrained=str(weights)), load_file(weights)
    state = generator.backbone.state_dict()
    assert torch.equal(state["layer3.0.conv1.weight"], file["layer3.0.conv1.weight"])
    assert not any("layer4" in key or key.startswith("fc") for key in state)
    assert not any(torch.is_tensor(value) for value in generator.backbone.pretrained_cfg.values())
    assert "state_dict" not in generator.backbone.pretrained_cfg and "pretrained" not in generator.options
    students.save(generator, tmp_path / "s.safetensors")
    weights.unlink()
    loaded = students.load(tmp_path / "s.safetensors")
    assert torch.equal(loaded(*inputs())[0], generator.eval()(*inputs())[0])


def test_weights_that_are_not_there_or_do_not_fit_are_told(weights, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"pretrained: nowhere.pt: no such file \(weights of backbone 'test_resnet'\)"):
        small(pretrained="nowhere.pt")
    with pytest.raises(ValueError, match="pretrained: expected true, false or a file's path, got 3"):
        small(pretrained=3)
    state = load_file(weights)
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"part.safetensors: .*'test_resnet': layer1.0.conv1.weight is missing"):
        small(pretrained=str(tmp_path / "part.safetensors"))
    save_file({**state, "conv1.0.weight": torch.ones(2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"pretrained: cannot load .*other.safetensors: Error.*state_dict"):
        small(pretrained=str(tmp_path / "other.safetensors"))
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(ValueError, match="text.pt"):
        small(pretrained=str(tmp_path / "text.pt"))


def test_without_internet_timms_weights_ask_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="cannot load timm's weights of 'test_resnet': .*; without internet give a"):
        small(pretrained=True)
    with pytest.raises(ValueError, match="cannot load timm's weights of 'lcnet_035': No pretrained weights exist"):
        load_backbone("lcnet_035", 64, True)


def test_a_second_student_of_a_process_starts_from_the_same_weights():
    """What the process remembers of a backbone does not move the random numbers."""
    first, second = (small("test_convnext").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_average_takes_over_the_statistics_of_normalisations():
    net = small("mobilenetv4_conv_small_050").train()
    state = State(net, torch.nn.Module(), torch.nn.Module(), Experiment(name="x"))
    net(*inputs())
    before = {key: tensor.clone() for key, tensor in state.ema.named_buffers()}
    state.update_ema()
    changed = [key for key, tensor in state.ema.named_buffers() if not torch.equal(tensor, before[key])]
    assert all(torch.equal(a, b) for a, b in zip(state.ema.buffers(), net.buffers(), strict=True))
    assert sum("running_var" in key for key in changed) == sum("running_var" in key for key in before) > 20
    assert not any(key.startswith(("scale", "shift", "coordinates")) for key in changed)


@pytest.mark.parametrize(
    "backbone, operation",
    [
        ("efficientvit_b0", r"transpose.int, in generator.backbone.stages_2.blocks.1.context_module.main \(LiteMLA\)"),
        ("repvit_m0_9", r"gelu.default, in generator.backbone.stem.act1 \(GELU\)"),
        ("convnext_atto", r"permute.default, in generator.backbone.stem_1 \(LayerNorm2d\)"),
    ],
)
def test_backbones_that_tnn_cannot_express_are_refused_by_name(backbone, operation, tmp_path):
    encoder = torch.nn.Identity()
    encoder.embedding_dim = 24
    model = models(students.StudentSwapper(small(backbone), encoder).eval())["generator"]
    with pytest.raises(ValueError, match=f"TNN has no layers for {operation}"):
        TARGETS["tnn"].write(model, tmp_path / "x.tnnproto", "fp32", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backbone", ["test_convnext", "mobilenetv3_small_050"])
def test_core_ml_computes_the_backbones_operations(backbone, tmp_path):
    """Layer normalisation and GELU; hard swish, hard sigmoid and squeeze-and-excitation."""
    pytest.importorskip("coremltools", reason='pip install -e ".[export-coreml]"')
    encoder = torch.nn.Identity()
    encoder.embedding_dim = 24
    model = models(students.StudentSwapper(small(backbone), encoder).eval())["generator"]
    target, embedding = inputs(n=1)
    path = TARGETS["coreml"].write(model, tmp_path / "x.mlpackage", "fp32", {})
    made = TARGETS["coreml"].load(path, model.outputs, 1)({"target": target, "embedding": embedding})
    with torch.inference_mode():
        assert (made["swap"] - model.module(target, embedding)).abs().max() < 1e-4


def test_timm_is_loaded_only_by_its_student():
    """At the top of a module it would cost every command half a second."""
    for file in Path(students.__file__).parent.rglob("*.py"):
        lines = file.read_text().splitlines()
        assert not any(line.startswith(("import timm", "from timm")) for line in lines), file
