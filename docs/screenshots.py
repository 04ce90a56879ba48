"""Take the pictures of the steering page that stand in the docs.

    python docs/screenshots.py [--model smollm2-135m]

It needs playwright and chromium. The page steers the packaged model by a direction of the starter
set; what it writes is the model's.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

FIGURES = Path(__file__).parent / "figures"
VIEWS = {
    "steering-page": {"viewport": {"width": 1180, "height": 860}, "color_scheme": "light"},
    "steering-page-narrow": {"viewport": {"width": 380, "height": 860}, "color_scheme": "dark"},
}


def main() -> None:
    """Start a server, steer, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    from playwright.sync_api import expect, sync_playwright

    from moralprobe import build_vectors, load_model
    from moralprobe.web.loaded import Loaded
    from moralprobe.web.server import serving

    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as started,
        ExitStack() as stack,
    ):
        table = Path(folder) / "starter.parquet"
        build_vectors("starter").save(table)
        loaded = Loaded(load_model(options.model), vectors=table)
        url = stack.enter_context(serving(loaded))
        chromium = started.chromium
        browser = chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, view in VIEWS.items():
            page = browser.new_page(**view)  # type: ignore[arg-type]
            page.goto(url)
            expect(page.locator("#about")).to_contain_text("layers")
            page.locator("#prompt").press("Control+Enter")
            expect(page.locator("#said")).to_contain_text("KL", timeout=120_000)
            page.screenshot(path=FIGURES / f"{name}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
