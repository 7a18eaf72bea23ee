"""Small H.264 files."""

import pytest


def write_video(path, frames, fps=25):
    """Write frames (H, W, 3) uint8 RGB of one size with even sides. Skips the test without the package av."""
    av = pytest.importorskip("av", reason='pip install -e ".[video]"')
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = frames[0].shape
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
