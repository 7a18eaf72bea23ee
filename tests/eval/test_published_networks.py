"""eval.published_networks: published names and shapes, strict loading, and preparations known by hand."""

import pytest
import torch
from helpers import goldens

from eval import published_networks as networks
from eval.cards import CARDS
from eval.estimators import Estimator, load_estimator, mirrored
from eval.published_networks import BINS, SPHERE_COLUMNS, SPHERE_POINTS, SPHERE_ROWS
from swapcore.frame import CANONICAL


def tensors(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def test_sphere20_has_the_published_layout():
    """MuggleWang/CosFace_pytorch @191354b, net.py."""
    shapes = tensors(networks.Sphere20())
    expected = {
        "layer1.0.weight": (64, 3, 3, 3), "layer1.0.bias": (64,), "layer1.1.weight": (64,),
        "layer1.2.conv1.weight": (64, 64, 3, 3), "layer1.2.prelu2.weight": (64,),
        "layer3.0.weight": (256, 128, 3, 3), "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.conv1.weight": (512, 512, 3, 3), "fc.weight": (512, 512 * 7 * 6), "fc.bias": (512,),
    }  # fmt: skip
    assert {key: shapes.get(key) for key in expected} == expected
    assert len(shapes) == 4 * 3 + (1 + 2 + 4 + 1) * 4 + 2 and "layer1.2.conv1.bias" not in shapes
    convolutions = [key for key, shape in shapes.items() if len(shape) == 4]
    assert len(convolutions) == 20, "those of its name"
    assert tensors(networks.Sphere20(112))["fc.weight"] == (512, 512 * 7 * 7)


def test_hopenet_has_the_published_layout():
    """natanielruiz/deep-head-pose @4b67b5c, code/hopenet.py: torchvision's ResNet-50 and four linear layers."""
    with torch.device("meta"):
        network = networks.Hopenet()
    shapes = {key.removeprefix("backbone."): shape for key, shape in tensors(network).items()}
    expected = {
        "conv1.weight": (64, 3, 7, 7), "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer3.5.conv2.weight": (256, 256, 3, 3), "layer4.2.bn3.running_var": (2048,),
        "fc_yaw.weight": (66, 2048), "fc_pitch.bias": (66,), "fc_roll.weight": (66, 2048),
        "fc_finetune.weight": (3, 2051),
    }  # fmt: skip
    assert {key: shapes.get(key) for key in expected} == expected and "fc.weight" not in shapes
    assert networks.Hopenet.renamed("layer1.0.conv1.weight") == "backbone.layer1.0.conv1.weight"
    assert networks.Hopenet.renamed("fc_yaw.bias") == "fc_yaw.bias"


def test_the_other_two_have_the_published_layouts():
    with torch.device("meta"):
        deng, first = tensors(networks.Reconstruction()), tensors(networks.WhitenedParameters())
    heads = [deng[f"final_layers.{i}.weight"][:2] for i in range(7)]
    assert heads == [(size, 2048) for size in (80, 64, 80, 3, 27, 2, 1)] and "backbone.layer4.2.conv3.weight" in deng
    assert first["conv1.weight"] == (32, 3, 3, 3) and first["dw5_6.conv_sep.weight"] == (1024, 512, 1, 1)
    assert first["fc.weight"] == (62, 1024) and "fc_param.weight" not in first


def test_bins_become_degrees_and_stay_logits():
    logits = torch.full((2, 3, BINS), -100.0)
    logits[0, 0, 33] = logits[0, 1, 0] = logits[0, 2, 65] = 100  # 0, -99 and 96 degrees
    logits[1, :, 30] = logits[1, :, 31] = 5  # halfway between -9 and -6
    angles = networks.angles_of_bins_deg(logits.flatten(1))
    assert torch.allclose(angles, torch.tensor([[0.0, -99, 96], [-7.5, -7.5, -7.5]]), atol=1e-4)


def spots(points, rows, columns):
    """A picture that is bright at five places (x, y) in pixels, and the places of its five maxima in that order."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    picture = torch.zeros(5, rows, columns)
    for i, (px, py) in enumerate(points):
        picture[i] = (-((x - px) ** 2 + (y - py) ** 2) / 18).exp()
    return picture * 2 - 1


def centres(maps):
    weight = (maps + 1) / (maps + 1).sum((1, 2), keepdim=True)
    y, x = torch.meshgrid(torch.arange(maps.shape[1]) + 0.5, torch.arange(maps.shape[2]) + 0.5, indexing="ij")
    return torch.stack([(weight * x).sum((1, 2)), (weight * y).sum((1, 2))], 1)


def test_the_crop_puts_landmarks_where_the_survey_has_them():
    target = torch.tensor(SPHERE_POINTS)
    turned = torch.tensor([[0.9, 0.2], [-0.2, 0.9]]) @ (target - 50).T
    points = turned.T * 1.7 + 128  # any similarity of the template
    picture = spots(points, 256, 256)[None]
    faces = networks.sphere_faces(picture, points[None] / 256)
    assert faces.shape == (1, 5, SPHERE_ROWS, SPHERE_COLUMNS)
    assert torch.allclose(centres(faces[0]), target + 0.5, atol=0.1)
    assert (faces[:, :, :, 0].mean() + 1).abs() < 0.05, "black outside"
    canonical = torch.tensor(CANONICAL) * 256
    found = centres(networks.sphere_faces(spots(canonical, 256, 256)[None])[0])
    assert (found - target - 0.5).norm(dim=1).max() < 3.5, "canonical crops fit up to the difference of the templates"


def test_the_crop_of_a_turned_face_is_scaled_by_the_spread_of_its_landmarks():
    """Least squares would take a wider part of the picture."""
    target = torch.tensor(SPHERE_POINTS)
    points = (target - target.mean(0)) * torch.tensor([1.0, 1.7]) + 128  # as of a face that looks aside
    apart, template = points - points.mean(0), target - target.mean(0)
    expected = apart * template.std(unbiased=False) / apart.std(unbiased=False) + target.mean(0) + 0.5
    found = centres(networks.sphere_faces(spots(points, 256, 256)[None], points[None] / 256)[0])
    assert torch.allclose(found, expected, atol=0.15)


@pytest.mark.parametrize("points", [torch.full((1, 5, 2), 0.5), torch.full((1, 5, 2), float("nan"))])
def test_landmarks_that_form_no_face_are_refused(points):
    with pytest.raises(ValueError, match="expected five points of a face"):
        networks.sphere_faces(torch.zeros(1, 3, 64, 64), points)


def test_imagenet_numbers_are_applied_as_each_code_does():
    white = torch.ones(1, 3, 2, 2)
    right, odd = networks.imagenet_scaled(white), networks.imagenet_scaled(-white, unit=False)
    assert right[0, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229)
    assert odd[0, 2, 0, 0] == pytest.approx((-1 - 0.406) / 0.225)
    red = torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert networks.whitened_faces(red)[0, :, 60, 60].tolist() == pytest.approx(
        [-127.5 / 128, -127.5 / 128, 127.5 / 128]
    )


@pytest.fixture(scope="module")
def cosface(tmp_path_factory):
    torch.manual_seed(0)
    network = networks.Sphere20()
    path = tmp_path_factory.mktemp("weights") / CARDS["cosface_acc9928"].file
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, path)
    return network.eval(), path


def test_the_recogniser_joins_features_of_crop_and_mirror_image_before_it_scales_them(cosface):
    network, path = cosface
    estimator = mirrored(load_estimator("cosface_acc9928", path))
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    points = torch.tensor(CANONICAL).expand(2, 5, 2)
    with torch.inference_mode():
        faces = networks.sphere_faces(images, points)
        joined = torch.cat([network(faces), network(faces.flip(-1))], 1)
        expected = joined / joined.norm(dim=1, keepdim=True)
        assert torch.allclose(estimator(images, landmarks=points), expected, atol=1e-5)
        assert torch.allclose(estimator(images), expected, atol=1e-5), "canonical crops have these landmarks"
        moved = points + torch.tensor([0.05, 0.0])
        assert not torch.allclose(estimator(images, landmarks=moved), expected, atol=1e-3)
    assert estimator.flip == "image and mirror image, concatenated"


def test_files_of_another_network_are_refused(cosface, tmp_path):
    with pytest.raises(ValueError, match="CosFace_ACC99.28.pth: .*'cosface_vggface2'.*fc.weight: expected shape"):
        load_estimator("cosface_vggface2", cosface[1])
    state = torch.load(cosface[1], weights_only=True)
    state.pop("module.layer2.3.prelu1.weight")
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match="layer2.3.prelu1.weight: expected shape"):
        load_estimator("cosface_acc9928", tmp_path / "cut.pth")
    state["module.layer2.3.prelu1.weight"] = torch.full((128,), float("nan"))
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(ValueError, match="layer2.3.prelu1.weight: NaN"):
        load_estimator("cosface_acc9928", tmp_path / "nan.pth")


def test_hopenet_loads_by_published_names_and_reads_as_each_protocol_wants(tmp_path):
    torch.manual_seed(0)
    network = networks.Hopenet().eval()
    with torch.no_grad():  # of all maps nothing is left: the biases alone decide
        for name, bin_number in (("yaw", 40), ("pitch", 30), ("roll", 33)):
            head = network.get_submodule(f"fc_{name}")
            head.weight.zero_()
            head.bias.fill_(-50)
            head.bias[bin_number] = 50
    path = tmp_path / CARDS["hopenet_casia"].file
    torch.save({key.removeprefix("backbone."): value for key, value in network.state_dict().items()}, path)
    image = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        assert load_estimator("hopenet_reface", path)(image)[0].tolist() == pytest.approx([21, -9, 0], abs=1e-3)
        logits = load_estimator("hopenet_reliableswap", path)(image)
    assert logits.shape == (1, 198) and logits[0, 40] == 50 and logits[0, 66 + 30] == 50


def test_the_masked_recogniser_loads_by_published_names(tmp_path):
    """TreB1eN/InsightFace_Pytorch, as REFace's src/Face_models/encoders/model_irse.py has it."""
    state, path = goldens.fill("arcface_irse50"), tmp_path / CARDS["arcface_reface"].file
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3) and shapes["body.23.res_layer.5.fc1.weight"][:2] == (32, 512)
    assert shapes["output_layer.3.weight"] == (512, 512 * 7 * 7)
    torch.save(state, path)
    estimator = load_estimator("arcface_reface", path)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1
    parsing = torch.full((2, 1, 64, 64), 4, dtype=torch.uint8)
    parsing[0] = 6
    with torch.inference_mode():
        found = estimator(images, parsing=parsing)
        faces = networks.masked_faces(images, parsing, (6,))
        assert torch.allclose(found, estimator.network.network(faces)[0], atol=1e-4) and found.shape == (2, 512)
        assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-5)
        hidden = estimator(torch.flip(images, [0])[1:], parsing=parsing[1:])
        parsing[0, :, :, :20] = 4
        both = [estimator(*one[:1], parsing=one[1]) for one in ((images, parsing), (images.flip(-1), parsing.flip(-1)))]
        joined = torch.cat(both, 1) / 2**0.5
        assert torch.allclose(mirrored(estimator)(images, parsing=parsing), joined, atol=1e-5)
    assert torch.allclose(found[1:], hidden, atol=1e-4), "of a picture that is masked as a whole nothing is seen"
    for one in (estimator, mirrored(estimator)):
        with pytest.raises(ValueError, match="the list has no parsing maps; write the list again with --masks"):
            one(images)
    state["output_layer.3.weight"] = state["output_layer.3.weight"][:, :-1]
    torch.save(state, path)
    with pytest.raises(ValueError, match="ir_se50.pth: .*'arcface_reface'.*output_layer.3.weight: expected shape"):
        load_estimator("arcface_reface", path)


def test_a_mask_leaves_the_middle_of_the_scale():
    parsing = torch.zeros(1, 1, 112, 112, dtype=torch.uint8)
    parsing[..., :56] = 3
    parsing[..., 56:] = 4  # hair, which is not kept
    faces = networks.masked_faces(torch.ones(1, 3, 112, 112), parsing, (1, 2, 3, 5, 6, 7, 9))
    edge = (128 - 32) * 112 / 188  # of the inner part: column 128 of 256, less the 32 that are cut off
    assert faces.shape == (1, 3, 112, 112) and (faces[..., : int(edge) - 1] == 1).all()
    assert (faces[..., int(edge) + 2 :] == 0).all(), "grey, not black"


def test_an_estimator_without_use_for_landmarks_is_called_without_them():
    plain = Estimator(lambda images: images[:, :, 0, 0], name="corner", weight_hash="none")
    beside = {"landmarks": torch.zeros(2, 5, 2), "parsing": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}
    assert plain(torch.zeros(2, 3, 4, 4), **beside).shape == (2, 3)
