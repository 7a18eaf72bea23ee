"""Packaging. The upper bounds keep torch and torchvision compatible: each torchvision requires exactly one torch."""

from setuptools import find_packages, setup

ONNX = ["onnxruntime>=1.20,<2", "onnx>=1.19,<2", "onnxscript>=0.5,<0.8"]
REMOTE = ["s3fs>=2025,<2027"]
VIDEO = ["av>=15,<19", "opencv-python-headless>=4.10,<6"]
HEIC = ["pillow-heif>=1,<2"]
FID = ["torch-fidelity>=0.4,<0.5"]
# One extra for each runtime of students/export; all of them share one environment with torch < 2.15.
EXPORT = {
    "export-onnx": ONNX,
    "export-coreml": ["coremltools>=9.0,<10; python_version < '3.14'"],
    "export-ncnn": ["pnnx>=20260901", "ncnn>=1.0.20260901,<2"],
    "export-litert": ["litert-torch>=0.10,<0.11", "ai-edge-litert>=2.3,<3", "ai-edge-quantizer>=0.10,<0.11"],
    "export-executorch": ["executorch>=1.5,<1.6", "torchao>=0.18,<0.19"],
    "export-mnn": ["MNN>=3.6,<4", *ONNX],
    "export-web": ["selenium>=4.30,<5", *ONNX],
}
EXPORT_ALL = sorted({package for packages in EXPORT.values() for package in packages})
TEST = [
    "pytest>=8,<10",
    "pytest-xdist>=3.8,<4",
    "ruff==0.17.6",
    "moto[s3]>=5,<6",
    "flask>=3,<4",
    "flask-cors>=5,<7",
]

setup(
    name="swapdistill",
    version="0.1.0",
    description="Distil heavy face-swap networks into students that run on a phone",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0 AND CC0-1.0",  # CC0: the data of the head, teachers/exact/head.md
    python_requires=">=3.11",
    # datasets/ has no __init__.py and is left out: a package of that name would overwrite Hugging Face's.
    packages=find_packages(include=["swapcore*", "students*", "teachers*", "eval*", "distill*"]),
    package_data={
        "students": ["weights/*"],
        "students.export": ["page/*"],
        "teachers.exact": ["head.npz", "head.md", "CC0-1.0.txt"],
        "eval": ["weights/*", "*.yaml"],
        "distill.report": ["*.yaml", "templates/*"],
    },
    install_requires=[
        "torch>=2.11,<2.15",
        "torchvision>=0.26,<0.30",
        "accelerate>=1.15,<2",
        "timm>=1.0,<2",
        "safetensors>=0.5,<1",
        "numpy>=2.0,<3",
        "pyyaml>=6,<7",
        "pillow>=11,<14",
        "scikit-image>=0.25,<0.27",
        "scipy>=1.13,<2",
        "lpips>=0.1.4,<0.2",
        "torchmetrics>=1.9,<2",
        "matplotlib>=3.9,<4",
        "jinja2>=3.1,<4",
        "fsspec>=2024.6",
        "tqdm>=4.66,<5",
        "mlflow>=3.17,<4",
    ],
    extras_require={
        "test": [*TEST, *EXPORT_ALL, *REMOTE, *VIDEO, *FID],
        "onnx": ONNX,
        "export": EXPORT_ALL,
        **EXPORT,
        "remote": REMOTE,
        "video": VIDEO,
        "fid": FID,
        "heic": HEIC,
    },
)
