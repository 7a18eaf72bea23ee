"""Opens the page of `web.py` in a headless Chromium. Needs the extra `export-web`, Chromium and its driver.

The folder is served at 127.0.0.1 as `python -m http.server` serves it; Selenium drives the page.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swapcore import terminal

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
)
# WebGPU on the CPU, by Chromium's SwiftShader: the same code path as on a GPU, but not its speed.
SOFTWARE_WEBGPU = (
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-webgpu-adapter=swiftshader",
    "--use-vulkan=swiftshader",
)
START_S, SWAP_S = 120, 120
_SWAP = """
const [source, target, done] = arguments;
const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const text = (floats) => {
  const bytes = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
  let all = "";
  for (let i = 0; i < bytes.length; i += 8192) all += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(all);
};
swapdistill.swap(floats(source), floats(target)).then(
  (result) => done({ ...result, swap: text(result.swap) }), (error) => done({ error: String(error) }));
"""
_CALL = "const done = arguments[0]; {}.then((value) => done({{ value }}), (error) => done({{ error: String(error) }}));"


@dataclass(frozen=True)
class Swap:
    """swap (1, 3, R, R), the network's output, and the milliseconds of both networks in the page."""

    swap: Tensor
    backend: str
    encoder_ms: float
    generator_ms: float


@dataclass(frozen=True)
class Page:
    """An open page. `driver`: Selenium's, for clicks and screenshots. `requests`: all paths that it requested."""

    driver: Any
    address: str
    requests: list[str] = field(default_factory=list)

    def swap(self, source: Tensor, target: Tensor) -> Swap:
        """The swap of two crops (1, 3, R, R) float32 in [-1, 1]. Raises ValueError with the page's error."""
        result = self.driver.execute_async_script(_SWAP, _text(source), _text(target))
        if "error" in result:
            raise ValueError(f"{self.address}: the page cannot swap: {result['error']}")
        numbers = np.frombuffer(base64.b64decode(result["swap"]), "<f4").reshape(target.shape)
        return Swap(torch.from_numpy(numbers.copy()), result["backend"], result["encoder_ms"], result["generator_ms"])

    def call(self, expression: str) -> Any:
        """The JSON value of a promise in the page. Raises ValueError with the page's error."""
        result = self.driver.execute_async_script(_CALL.format(expression))
        if "error" in result:
            raise ValueError(f"{self.address}: {result['error']}")
        return result.get("value")

    def hosts(self) -> set[str]:
        """Scheme, host and port of all network requests since the last call, from Chromium's log."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {"/".join(url.split("/")[:3]) for url in urls if url.startswith(("http:", "https:", "ws:", "wss:"))}


@contextmanager
def opened(path: str | Path, backend: str = "wasm", size: tuple[int, int] = (1280, 900)) -> Iterator[Page]:
    """Serve a page's folder and open it in a window of `size` pixels; yields the Page when its student is loaded.

    backend: wasm or webgpu. Raises ValueError naming the missing program or package, or with the page's error.
    """
    path = Path(path)
    if not (path / "index.html").is_file():
        raise ValueError(f"{path}: no page: it has no index.html; write one with the target web")
    requests: list[str] = []
    with _driver(size, backend) as driver, _served(path, requests) as address:
        page = Page(driver, address, requests)
        driver.set_script_timeout(START_S)
        driver.get(address)
        page.call("(async () => { while (!window.swapdistill) await new Promise((r) => setTimeout(r, 20)); })()")
        page.call("swapdistill.ready")
        runs_in = page.call("(async () => document.getElementById('backend').value)()")
        if runs_in != backend:
            reason = page.call("(async () => document.getElementById('backend-status').textContent)()")
            raise ValueError(f"{path}: runs in {runs_in}, not in {backend}: {reason}")
        driver.set_script_timeout(SWAP_S)
        yield page


@contextmanager
def _served(folder: Path, requests: list[str]) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _driver(size: tuple[int, int], backend: str) -> Iterator[Any]:
    try:
        from selenium import webdriver
        from selenium.common.exceptions import WebDriverException
    except ImportError:
        raise ValueError(f"driving a browser needs the package selenium: {terminal.install('export-web')}") from None
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        missing = "chromedriver" if browser else "Chromium"
        raise ValueError(f"driving a browser needs {missing}: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(flag)
        for flag in SOFTWARE_WEBGPU if backend == "webgpu" else ("--disable-features=WebGPU",):
            options.add_argument(flag)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")  # Chromium's sandbox refuses to run as root
        try:
            window = webdriver.Chrome(options, webdriver.ChromeService(driver))
        except WebDriverException as error:
            raise ValueError(f"{browser}: does not start: {str(error.msg).splitlines()[0]}") from None
        try:
            yield window
        finally:
            window.quit()


def _text(images: Tensor) -> str:
    return base64.b64encode(images.detach().float().cpu().numpy().astype("<f4").tobytes()).decode()
