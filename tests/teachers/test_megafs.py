"""MegaFS against the reference's own numbers (zyainfal/One-Shot-Face-Swapping-on-Megapixels @f01b195), and as a teacher
whose small files have the original layout."""

import pytest
import torch
from helpers import goldens
from helpers.teacher_networks import DIM, filled, latents, originals, small_stylegan2
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.frame import Crop
from teachers.hierfe import HieRFE
from teachers.megafs import (
    FTM,
    MegaFSTeacher,
    build_transfer,
    load_encoder_and_transfer,
)

HEADS = (4, 2, 2)


# The networks at full size


@torch.no_grad()
@pytest.mark.parametrize("transfer", ["ftm", "injection"])
def test_transfer_modules_equal_the_reference(transfer):
    source, target = (goldens.vector(f"megafs.{name}", (2, 18, 512), 0.9) for name in ("idd", "att"))
    latents = filled(f"megafs_{transfer}")(source, target)
    goldens.compare(goldens.load(f"megafs_{transfer}"), "latents", latents)


@torch.no_grad()
@pytest.mark.slow
def test_hierfe_equals_the_reference():
    latents, structure = filled("megafs_hierfe")(goldens.image("megafs.face", 1, 256))
    golden = goldens.load("megafs_hierfe")
    goldens.compare(golden, "latents", latents)
    goldens.compare(golden, "struct", structure)


def test_lcr_has_no_parameters():
    assert not build_transfer("lcr").state_dict()
    with pytest.raises(ValueError, match="unknown face transfer module 'idd', known: ftm, injection, lcr"):
        build_transfer("idd")


# What the transfer modules do


@torch.no_grad()
@pytest.mark.parametrize("transfer", ["ftm", "injection", "lcr"])
def test_first_latents_are_the_targets(transfer):
    torch.manual_seed(0)
    module = build_transfer(transfer, 8, DIM).eval()
    source, target = latents(1), latents(2)
    swap = module(source, target)
    assert swap.shape == target.shape and torch.equal(swap[:, :4], target[:, :4])
    assert torch.equal(swap[:, 4:], source[:, 4:]) == (transfer == "lcr")
    changed = source.clone()
    changed[:, 6] += 1  # a latent of the source acts on the same latent of the swap alone
    assert ((module(changed, target) - swap).abs().amax((0, 2)) > 1e-4).tolist() == [False] * 6 + [True, False]


@torch.no_grad()
def test_ftm_updates_both_sides_at_once_and_mixes_them_by_its_weight():
    torch.manual_seed(0)
    module = FTM(5, DIM).eval()
    state, source, target = originals(module, "megafs_ftm"), latents(1, 3, 5), latents(2, 3, 5)
    x = {"idd": source[:, 4], "att": target[:, 4]}
    for step in range(3):
        both = torch.cat([x["idd"], x["att"]], 1)

        def mlp(kind, step=step, both=both):
            weights = [
                state[f"blocks.0.{kind}.{step}.{layer}.{what}"] for layer in (0, 2) for what in ("weight", "bias")
            ]
            return F.linear(F.linear(both, *weights[:2]).clamp_min(0), *weights[2:])

        x = {side: x[side] * mlp(f"{side}_selectors").sigmoid() + mlp(f"{side}_shifters").tanh() for side in x}
    share = 1 / (1 + torch.exp(-state["weight"][0, 0]))
    assert torch.allclose(module(source, target)[:, 4], share * x["idd"] + (1 - share) * x["att"], atol=1e-6)
    for weight, side in ((50.0, "idd"), (-50.0, "att")):
        module.mix.fill_(weight)
        assert torch.allclose(module(source, target)[:, 4], x[side], atol=1e-6)


def test_hierfe_reads_256_pixels():
    with pytest.raises(ValueError, match=r"images: expected \(N, 3, 256, 256\), got \(1, 3, 128, 128\)"):
        HieRFE(HEADS, DIM, 2)(torch.zeros(1, 3, 128, 128))


# The teacher, from small files in the original layout


def small_encoder(seed: int = 1) -> HieRFE:
    """With statistics of pictures, so that latents differ, and weak residuals as after training, without which a
    deep network of random weights amplifies every rounding."""
    torch.manual_seed(seed)
    encoder = HieRFE(HEADS, DIM, 4)
    for name, module in encoder.named_modules():
        if name.endswith("bn3"):
            nn.init.constant_(module.weight, 0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # of all images seen, not of the last ones mostly
    with torch.no_grad():
        encoder(faces("calibration", 256, 32))
    return encoder.eval().requires_grad_(False)


def faces(name: str, size: int, count: int = 2) -> Tensor:
    """Colours without a plan, each picture another, so that small encoders tell them apart."""
    coarse = goldens.vector(name, (count, 3, 8, 8), 2.0)
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False).tanh()


def adam_of(network: nn.Module) -> dict:
    optimizer = torch.optim.Adam([torch.zeros(4, requires_grad=True), *network.requires_grad_().parameters()])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(4)
    optimizer.step()
    return optimizer.state_dict()


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(2)
    modules = {name: build_transfer(name, sum(HEADS), DIM).eval() for name in ("ftm", "injection", "lcr")}
    return small_encoder(), modules, small_stylegan2()


def parts_of(networks, transfer: str) -> dict:
    encoder, modules, _ = networks
    module = modules[transfer]
    state = originals(module, f"megafs_{transfer}") if module.state_dict() else {}
    return {"e": originals(encoder, "megafs_hierfe"), "s": state}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, networks):
    """{transfer}_final.pth with optimiser states beside the networks, and the generator's file."""
    path = tmp_path_factory.mktemp("megafs")
    for transfer, module in networks[1].items():
        torch.save({**parts_of(networks, transfer), "o_s": adam_of(module), "step": 7}, path / f"{transfer}_final.pth")
    torch.save(
        {"g_ema": originals(networks[2], "megafs_stylegan2"), "latent_avg": torch.zeros(DIM)}, path / "generator.pth"
    )
    return path


def teacher_of(folder, transfer: str = "ftm", **options) -> MegaFSTeacher:
    weights = {"encoder_and_transfer": folder / f"{transfer}_final.pth", "generator": folder / "generator.pth"}
    return MegaFSTeacher(weights, transfer, **options).eval().requires_grad_(False)


def expected_swap(networks, transfer, source, target, rescale="minmax", refine=False):
    encoder, modules, generator = networks
    crop = Crop("ffhq_512", 256)

    def lay(codes, structure):
        image = generator(codes, structure)
        if rescale == "minmax":
            image = torch.stack([(one - one.min()) / (one.max() - one.min()) * 2 - 1 for one in image])
        return crop.paste(image.clamp(-1, 1), target)

    codes, structure = encoder(crop.take(target))
    swap = lay(modules[transfer](encoder(crop.take(source))[0], codes), structure)
    return lay(*encoder(crop.take(swap))) if refine else swap


@torch.no_grad()
@pytest.mark.parametrize("transfer", ["ftm", "injection", "lcr"])
@pytest.mark.parametrize("options", [{}, {"refine": True}, {"rescale": "clamp"}])
def test_files_swap_as_their_networks_do(folder, networks, transfer, options):
    teacher, source, target = teacher_of(folder, transfer, **options), faces("s", 64), faces("t", 64)
    identity = teacher.identity(source)
    assert [tensor.shape for tensor in identity] == [(2, 8, DIM)] and identity[0].abs().max() < 1
    swap = teacher(source, target)
    assert torch.allclose(swap, expected_swap(networks, transfer, source, target, **options), atol=1e-5)
    assert torch.equal(swap, teacher.swap(identity, target))
    assert not torch.allclose(swap, teacher(source.flip(0), target), atol=1e-3)
    assert (
        list(teacher.parts) == ["encoder", "transfer", "generator"] if transfer != "lcr" else ["encoder", "generator"]
    )


@torch.no_grad()
def test_swaps_at_any_canonical_size_and_batch(folder):
    teacher = teacher_of(folder)
    for size in (24, 32, 96):
        swap = teacher(faces("s", size, 3), faces("t", size, 3))
        assert swap.shape == (3, 3, size, size) and swap.dtype == torch.float32 and swap.abs().max() <= 1
        alone = torch.cat([teacher(faces("s", size, 3)[i, None], faces("t", size, 3)[i, None]) for i in range(3)])
        assert torch.allclose(swap, alone, atol=1e-4)


@torch.no_grad()
def test_mask_says_where_the_swap_is_seen(folder):
    source, target = faces("s", 64), faces("t", 64)
    whole = teacher_of(folder)(source, target)

    def left_half(images):
        return (torch.arange(64) < 32).float().expand(len(images), 1, 64, 64)

    swap = teacher_of(folder, mask=left_half)(source, target)
    assert torch.allclose(swap[..., :32], whole[..., :32]) and torch.allclose(swap[..., 32:], target[..., 32:])
    assert not torch.allclose(whole, target, atol=0.1)
    with pytest.raises(ValueError, match=r"mask: expected \(2, 1, 64, 64\), got \(2, 3, 64, 64\)"):
        teacher_of(folder, mask=lambda images: images)(source, target)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 0.02), (torch.float16, 0.002)])
def test_autocast_is_harmless(folder, dtype, allowed):
    for transfer in ("ftm", "injection", "lcr"):
        teacher, source, target = teacher_of(folder, transfer), faces("s", 64), faces("t", 64)
        swap, identity = teacher(source, target), teacher.identity(source)[0]
        with torch.autocast("cpu", dtype):
            half = teacher(source, target)
            assert torch.equal(teacher.identity(source)[0], identity)
        assert teacher.autocast and half.dtype == torch.float32
        assert 0 < (half - swap).std() / swap.std() < allowed


def test_hash_tells_options_apart(folder):
    def half(images):
        return images[:, :1] * 0 + 0.5

    options = ({}, {"refine": True}, {"rescale": "clamp"}, {"mask": half})
    assert len({teacher_of(folder, **option).weight_hash for option in options}) == 4
    assert teacher_of(folder, mask=half).weight_hash == teacher_of(folder, mask=half).weight_hash


@pytest.mark.parametrize("layout", ["module", "legacy"])
def test_encoder_and_transfer_files(tmp_path, networks, layout):
    parts, path = parts_of(networks, "ftm"), tmp_path / "ftm_final.pth"
    prefix = "module." if layout == "module" else ""
    content = {part: {prefix + key: tensor for key, tensor in state.items()} for part, state in parts.items()}
    torch.save(content, path, _use_new_zipfile_serialization=layout != "legacy")
    encoder, module = load_encoder_and_transfer(path, "ftm")
    assert encoder.options == {"heads": HEADS, "dim": DIM, "width": 4} and isinstance(module, FTM)
    for loaded, network in ((encoder, networks[0]), (module, networks[1]["ftm"])):
        assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in network.state_dict().items())


def test_foreign_files_are_named(tmp_path, folder, networks):
    parts, path = parts_of(networks, "ftm"), tmp_path / "ftm_final.pth"
    weights = {"encoder_and_transfer": path, "generator": folder / "generator.pth"}
    key, cell = "mapping2.1.convs.3.weight", "blocks.2.att_shifters.1.2.bias"
    for part, change, message in (
        ("e", {key: None}, r"e: not the weights of HieRFE: heads\.1\.1\.3\.weight: expected shape .*, found none"),
        ("e", {key: torch.zeros(3)}, r"e: .*mapping2\.1\.convs\.3\.weight: expected .*found shape \(3,\)"),
        (
            "e",
            {"fpn.output5.0.weight": torch.zeros(1)},
            r"e: .*fpn\.output5\.0\.weight: expected no such",
        ),
        ("e", {"fpn.output1.0.weight": None}, r"e: not a HieRFE: fpn\.output1\.0\.weight: .*found none"),
        (
            "e",
            {"mapping3.0.convs.0.weight": torch.zeros(2)},
            r"e: not a HieRFE: mapping3\.0\.convs\.0.*found shape \(2,\)",
        ),
        ("s", {cell: None}, r"s: not the weights of FTM: cells\.2\.target_shift\.1\.2\.bias: expected .*found none"),
        ("s", {cell: torch.zeros(4)}, r"s: .*blocks\.2\.att_shifters\.1\.2\.bias: expected .*found shape \(4,\)"),
        ("s", {"blocks.4.x": torch.zeros(4)}, r"s: .*blocks\.4\.x: expected no such tensor"),
    ):
        changed = {name: tensor for name, tensor in {**parts[part], **change}.items() if tensor is not None}
        torch.save({**parts, part: changed}, path)
        with pytest.raises(ValueError, match=rf"ftm_final\.pth: {message}"):
            MegaFSTeacher(weights)
    for transfer, message in (
        ("injection", r"not the weights of Injection: cells\.0"),
        ("lcr", r"not the weights of LCR"),
    ):
        torch.save(parts, path)
        with pytest.raises(ValueError, match=rf"ftm_final\.pth: s: {message}"):
            MegaFSTeacher(weights, transfer)
    for content, message in (
        ({"e": parts["e"]}, r"expected a state dict under 's', got a mapping with the keys e"),
        (parts["e"], r"expected a state dict under 'e', got a mapping with the keys fpn\."),
        ({"e": {}, "s": {}}, r"e: not a HieRFE: fpn\.backbone\.conv1\.weight: .*found none"),
        ({"e": {"x": 3}, "s": {}}, r"e: expected tensors by name"),
        (3, r"expected a state dict under 'e', got int"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=rf"ftm_final\.pth: {message}"):
            MegaFSTeacher(weights, "lcr")
    path.write_text("no weights")
    with pytest.raises(ValueError, match=r"ftm_final\.pth: is text"):
        MegaFSTeacher(weights)


def test_files_and_options_that_do_not_go_together(tmp_path, folder):
    generator = tmp_path / "large.pth"
    torch.save(originals(small_stylegan2(resolution=64), "megafs_stylegan2"), generator)
    weights = {"encoder_and_transfer": folder / "ftm_final.pth", "generator": generator}
    with pytest.raises(ValueError, match=r"latents: .*large\.pth takes 10, .*ftm_final\.pth gives 8"):
        MegaFSTeacher(weights)
    with pytest.raises(ValueError, match=r"generator\.pth: expected a state dict under 'e'"):
        MegaFSTeacher({"encoder_and_transfer": folder / "generator.pth", "generator": generator})
    with pytest.raises(ValueError, match=r"ftm_final\.pth: holds several networks \('e', 's'\)"):
        MegaFSTeacher({"encoder_and_transfer": folder / "ftm_final.pth", "generator": folder / "ftm_final.pth"})
    with pytest.raises(ValueError, match=r"weights\.generator is missing: the path of the stylegan2"):
        MegaFSTeacher({"encoder_and_transfer": folder / "ftm_final.pth"})
    with pytest.raises(ValueError, match="transfer: expected ftm or injection or lcr, got 'ldm'"):
        MegaFSTeacher(weights, "ldm")
    with pytest.raises(ValueError, match="rescale: expected minmax or clamp, got 'none'"):
        MegaFSTeacher(weights, rescale="none")
