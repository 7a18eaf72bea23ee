"""Shared by all packages: files, images, the canonical crop, weights, ONNX, hardware, the terminal."""
