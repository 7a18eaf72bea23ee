"""The floor below every room: files, images, the canonical frame, weights, ONNX, hardware, the terminal."""
