"""Cards of the estimators' weights: origin, licence and image preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from swapcore.weights import Card


@dataclass(frozen=True, kw_only=True)
class EstimatorCard(Card):
    """architecture: a key of ARCHITECTURES. outputs: embedding, pose, expression, perceptual, features. also: further
    files that the network needs. options: of a FaceRegressor. coefficients: meaning and scale of the expression output.
    """

    architecture: str
    outputs: tuple[str, ...]
    crop: str
    colour_order: str = "rgb"
    options: dict[str, Any] = field(default_factory=dict)
    also: tuple[Card, ...] = ()
    coefficients: str = ""

    @property
    def files(self) -> tuple[Card, ...]:
        """A card for each file of the estimator, this one first; load_estimator takes their paths in this order."""
        return (self, *self.also)


_3DDFA = "https://github.com/cleardusk/3DDFA_V2"
_FSANET = "https://github.com/omasaht/headpose-fsanet-pytorch"
_FSANET_FILES = "https://raw.githubusercontent.com/omasaht/headpose-fsanet-pytorch/002549c981b607f722e0810d999afcde7e5aaa66/pretrained/"
_TORCHVISION_FILES = "https://download.pytorch.org/models/"
_CASIA = "https://github.com/CASIA-NLPRAI/face-swapping-survey"
_RELIABLESWAP = "https://github.com/ygtxr1997/ReliableSwap"


def _synthetic(
    name: str, sha256: str, network_outputs: int, note: str, options: dict[str, Any] | None = None, **card: Any
) -> EstimatorCard:
    return EstimatorCard(
        name=f"synthetic_{name}",
        file=f"synthetic_{name}.safetensors",
        sha256=sha256,
        url=None,
        source="this repository, eval/weights",
        licence="Apache-2.0",
        architecture="face_regressor",
        crop="rows and columns 26 to 229 of 256 to 64 x 64, antialiased bilinear, [-1, 1]",
        options={"outputs": network_outputs, **(options or {})},
        note=f"{note} Trained with `python -m distill.pretrain {name}`.",
        **card,
    )


_POSE_AND_EXPRESSION = {
    "outputs": ("pose", "expression"),
    "coefficients": "jaw, smile, raised brows, blink, gaze in x and y, pucker, frown, each in [-1, 1] as the renderer "
    "has it; not whitened",
}


def _lpips(net: str, model: str, file: str, note: str = "") -> EstimatorCard:
    # torchvision publishes the first eight digits of the sha256, in the file's name.
    return EstimatorCard(
        name=f"lpips_{net}",
        file=file,
        sha256=file.removesuffix(".pth").rpartition("-")[2],
        url=_TORCHVISION_FILES + file,
        source=f"torchvision {model} IMAGENET1K_V1; its linear heads come with the package lpips",
        licence="BSD-3-Clause, heads BSD-2-Clause",
        architecture="lpips",
        outputs=("perceptual",),
        crop="whole frame",
        note=note,
    )


def _hopenet(user: str, crop: str, colour_order: str = "rgb", note: str = "", **options: Any) -> EstimatorCard:
    return EstimatorCard(
        name=f"hopenet_{user}",
        file="hopenet_robust_alpha1.pkl",
        sha256=None,
        url=None,
        source="https://github.com/natanielruiz/deep-head-pose, README.md, 300W-LP, alpha 1, robust to image quality",
        licence="Apache-2.0",
        architecture="hopenet",
        outputs=("pose",),
        crop=crop,
        colour_order=colour_order,
        options={"side": 224, "unit_range": True, "logits": False} | options,
        note=f"Signs as published, not compared with known angles. {note}".strip(),
    )


_SQUEEZENET = {
    "architecture": "squeezenet",
    "outputs": ("features",),
    "crop": "whole frame to 224 x 224, antialiased bilinear; mean and deviation of ImageNet",
    "note": "512 features, for want of Inception v3: their distances are not FID.",
}

CARDS = {
    "synthetic_recogniser": _synthetic(
        "recogniser",
        "5936ce4132f742dd1ffdca80431877a24147b4b8761bcb3a367ccf1b19a478ce",
        64,
        "For synthetic faces.",
        options={"depth": 2},
        outputs=("embedding", "features"),
    ),
    "synthetic_pose": _synthetic(
        "pose",
        "836488ae350861f86c75e446a6d64239cca8ec642cc0ccbbb339729dc1258483",
        11,
        "For synthetic faces.",
        **_POSE_AND_EXPRESSION,
    ),
    "synthetic_pose_quality": _synthetic(
        "pose_quality",
        "8ad21d8459a920d86496bd2095bf90eb0b70a7420fd77c1f47d54c9b0ac307cf",
        11,
        "For synthetic faces, to choose among swaps by a network that will not evaluate them.",
        **_POSE_AND_EXPRESSION,
    ),
    "3ddfa_v2_mb05": EstimatorCard(
        name="3ddfa_v2_mb05",
        file="3ddfa_v2_mb05_120x120.pth",
        sha256="f93ed7f1c4c0382b16d7c18480a5f67473c1917a47475a9823924f38aeb27280",
        url="https://raw.githubusercontent.com/cleardusk/3DDFA_V2/dc9d1ba5051e391a173d9e5969e2cb5f549f649f/weights/mb05_120x120.pth",
        source=f"{_3DDFA} @1b6c676 weights/mb05_120x120.pth",
        licence="MIT",
        architecture="three_ddfa",
        outputs=("pose", "expression"),
        crop="square from (0.2, 33.6) with side 258 of 256, black outside, to 120 x 120; (x - 127.5) / 128",
        colour_order="bgr",
        also=(
            Card(
                name="3ddfa_v2_param_mean_std",
                file="3ddfa_v2_param_mean_std_62d_120x120.npz",
                sha256="0d388ea967886499f2f9c1073c44312ae0b4f73817a17ea83ee353f4ece0c52e",
                url=None,
                source=f"{_3DDFA} @1b6c676 configs/param_mean_std_62d_120x120.pkl, a pickled dict, its arrays mean and "
                "std saved by numpy.savez",
                licence="MIT",
            ),
        ),
        coefficients="the 10 of expression among 3DDFA_V2's 62, output * std + mean: not whitened",
        note="Yaw MAE 4.2 degrees on 16 photos of AFLW2000.",
    ),
    "fsanet": EstimatorCard(
        name="fsanet",
        file="fsanet-1x1-iter-688590.onnx",
        sha256="d85e90cb4b9d3a87e81bbfdcfcd130cbe0e175407042e439a570aa396c44eda6",
        url=_FSANET_FILES + "fsanet-1x1-iter-688590.onnx",
        source=f"{_FSANET} @002549c pretrained/fsanet-1x1-iter-688590.onnx",
        licence="MIT",
        architecture="fsanet",
        outputs=("pose",),
        crop="rows 45 to 234, columns 60 to 197 of 256 to 64 x 64, bilinear; (x - 127.5) / 128",
        colour_order="bgr",
        also=(
            Card(
                name="fsanet_var",
                file="fsanet-var-iter-688590.onnx",
                sha256="2877b1db98e3dc66468e90df8db4a21059facd1c3f107af91c6d4fe6476a03e1",
                url=_FSANET_FILES + "fsanet-var-iter-688590.onnx",
                source=f"{_FSANET} @002549c pretrained/fsanet-var-iter-688590.onnx",
                licence="MIT",
            ),
        ),
        note="A second opinion on pose: noisier on crops as tight as these. Pitch and roll with the signs of 3DDFA_V2.",
    ),
    "cosface_acc9928": EstimatorCard(
        name="cosface_acc9928",
        file="CosFace_ACC99.28.pth",
        sha256=None,
        url=None,
        source=f"{_CASIA} @716cc94, README.md, pretrained_models of its download",
        licence="none stated; the data set that it comes with needs a signed licence",
        architecture="sphere20",
        outputs=("embedding",),
        crop="112 rows x 96 columns by five landmarks, rotated by least squares, scaled by the spread of the "
        "points, bilinear without smoothing, black outside; [-1, 1]",
        options={"columns": 96},
        note="CosFace's SphereFace-20.",
    ),
    "cosface_vggface2": EstimatorCard(
        name="cosface_vggface2",
        file="net_sphere20_data_vggface2_acc_9955.pth",
        sha256=None,
        url=None,
        source=f"{_RELIABLESWAP} @a9fdce6, README, weights/third_party/cosface of its download",
        licence="none stated",
        architecture="sphere20",
        outputs=("embedding",),
        crop="whole frame at 256, to 112 x 112, bilinear without smoothing, corners kept; [-1, 1]",
        options={"columns": 112},
        note="CosFace's SphereFace-20 trained on VGGFace2.",
    ),
    "arcface_reface": EstimatorCard(
        name="arcface_reface",
        file="model_ir_se50.pth",
        sha256=None,
        url=None,
        source="https://github.com/TreB1eN/InsightFace_Pytorch, IR-SE50, by the link in README.md of Sanoojan/REFace "
        "@1bbd8cb",
        licence="MIT for the code; none stated for the weights",
        architecture="irse50",
        outputs=("embedding",),
        crop="whole frame to 112 x 112, bilinear without smoothing, [-1, 1], times the mask of the classes 1, 2, 3, 5, "
        "6, 7, 9 of a parsing map; by averages to 256, rows 35 to 222 and columns 32 to 219 of it, by averages to 112",
        options={"kept": (1, 2, 3, 5, 6, 7, 9)},
        note="ArcFace IR-SE-50. A swap is masked by the parsing map of its target.",
    ),
    "hopenet_casia": _hopenet("casia", "whole frame to 224 x 224, bilinear; ImageNet's mean and deviation", "bgr"),
    "hopenet_reface": _hopenet("reface", "whole frame to 224 x 224, bilinear; ImageNet's mean and deviation"),
    "hopenet_reliableswap": _hopenet(
        "reliableswap",
        "whole frame at 256 x 256 in [-1, 1], ImageNet's mean subtracted and divided by its deviation",
        note="Gives raw logits, 66 for each angle, not degrees.",
        side=256,
        unit_range=False,
        logits=True,
    ),
    "3ddfa_phase1": EstimatorCard(
        name="3ddfa_phase1",
        file="phase1_wpdc_vdc.pth.tar",
        sha256=None,
        url=None,
        source="https://github.com/cleardusk/3DDFA @f2b1e1e models/phase1_wpdc_vdc.pth.tar",
        licence="MIT",
        architecture="whitened_parameters",
        outputs=("expression",),
        crop="whole frame to 120 x 120, bilinear; (x - 127.5) / 128",
        colour_order="bgr",
        coefficients="the 10 of expression among 3DDFA's 62, as the network gives them: whitened",
    ),
    "deep3d_reface": EstimatorCard(
        name="deep3d_reface",
        file="epoch_20.pth",
        sha256=None,
        url=None,
        source="https://github.com/sicxu/Deep3DFaceRecon_pytorch, its pretrained model, as Sanoojan/REFace @2965289 "
        "reads it",
        licence="MIT for the code; the face model that it was trained with has a licence of its own",
        architecture="reconstruction",
        outputs=("expression",),
        crop="whole frame to 512 x 512, bicubic; [0, 1]",
        coefficients="all 64 of expression of Deng 2019",
        note="The network was made for crops of 224 pixels by landmarks; REFace gives it whole pictures of 512.",
    ),
    "lpips_alex": _lpips("alex", "alexnet", "alexnet-owt-7be5be79.pth", "The backbone of most published values."),
    "lpips_vgg": _lpips("vgg", "vgg16", "vgg16-397923af.pth"),
    "lpips_squeeze": _lpips("squeeze", "squeezenet1_1", "squeezenet1_1-b8a52dc0.pth"),
    "inception_fid": EstimatorCard(
        name="inception_fid",
        file="weights-inception-2015-12-05-6726825d.pth",
        sha256="6726825d",
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        source="https://github.com/toshas/torch-fidelity, release v0.2.0: TensorFlow's of 2015-12-05, converted",
        licence="Apache-2.0",
        architecture="inception",
        outputs=("features",),
        crop="whole frame, 8-bit, to 299 x 299, bilinear as of TensorFlow 1; (x - 128) / 128",
        note="The features of FID and KID, 2048 of them. Needs the package torch-fidelity.",
    ),
    "squeezenet1_0": EstimatorCard(
        name="squeezenet1_0",
        file="squeezenet1_0-b66bff10.pth",
        sha256="b66bff10",
        url=_TORCHVISION_FILES + "squeezenet1_0-b66bff10.pth",
        source="torchvision squeezenet1_0 IMAGENET1K_V1",
        licence="BSD-3-Clause",
        **_SQUEEZENET,
    ),
    "squeezenet1_0_compressed": EstimatorCard(
        name="squeezenet1_0_compressed",
        file="squeezenet1_0_torchvision.pth",
        sha256="575a40743ed85964da71be2c0b04dc085f8ec4aba8f6b440a70e63ea9fa5da69",
        url=None,
        source="https://github.com/songhan/SqueezeNet-Deep-Compression @fb13faa, decoded into torchvision's layout",
        licence="BSD-2-Clause-like",
        **_SQUEEZENET,
    ),
}
