"""How quick the web app answers, in a real browser on this machine: prints the section "Web app" of docs/benchmarks.md.

python bench/app.py
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page
from skimage import data

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import browsers  # noqa: E402
from report import circumstances, table, write_section  # noqa: E402
from test_app_browser import CHANGE, READY  # noqa: E402
from web_server import Served, served  # noqa: E402

PHOTOS = ("chelsea", "coffee", "astronaut", "rocket")
MOVES = 40
LARGE = (4000, 3000)
LARGEST = (6000, 4166)
SAVES = 8


def main() -> None:
    """Measure, and write the section."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = photos(folder)
        with served(folder, demo=True) as server, browsers(1, viewport={"width": 1280, "height": 900}) as (visitor,):
            page = visitor.page()
            rows = {"a new photo to its first map": [first_overlay(page, server.url, path) for path in paths[:-1]]}
            rows[f"the same, {LARGE[0]}×{LARGE[1]} pixels"] = [first_overlay(page, server.url, paths[-1]) for _ in range(3)]
            for control, values in (("opacity", (0.3, 0.8)), ("threshold", (0.35, 0.15))):
                rows[f"moving {control} to new pixels"] = [float(page.evaluate(CHANGE, [control, values[i % 2]])) for i in range(MOVES)]
            memory = server.memory()
            most = most_memory(server, paths[0])
    figures = [(title, f"{statistics.median(times):.0f}", f"{max(times):.0f}", str(len(times))) for title, times in rows.items()]
    body = [
        "## Web app",
        "Grad-CAM of the embedded network, driven in headless Chromium on the same machine: from giving a file, or moving a slider, to new "
        f"pixels on the page. `python bench/app.py`. The server held {memory:.0f} MB afterwards, and {most:.0f} MB at most "
        f"while {SAVES} downloads of a photo of {LARGEST[0]}×{LARGEST[1]} pixels were written at once.",
        table(("", "median ms", "slowest ms", "n"), figures),
        circumstances(("lucidcam", "torch", "starlette", "uvicorn", "pillow"), [("threads", "1 of torch"), ("load meanwhile", load())]),
    ]
    write_section(ROOT / "docs" / "benchmarks.md", "app", "\n\n".join(body))
    print("\n\n".join(body))


def photos(folder: Path) -> list[Path]:
    """Crops of real photos, each its own file, so that nothing is known beforehand; and one large photo, last."""
    found = []
    for source in PHOTOS:
        image = Image.fromarray(getattr(data, source)())
        for i in range(3):
            path = folder / f"{source}-{i}.jpg"
            image.crop((8 * i, 8 * i, image.width - 8, image.height - 8)).save(path, quality=92)
            found.append(path)
    image.resize(LARGE).save(folder / "large.jpg", quality=92)
    return [*found, folder / "large.jpg"]


def first_overlay(page: Page, url: str, path: Path) -> float:
    """Milliseconds from giving a file to a painted map, on a fresh page."""
    page.goto(url)
    page.wait_for_selector(READY)
    page.wait_for_timeout(500)
    began = time.perf_counter()
    page.set_input_files("#file", str(path))
    page.wait_for_selector("#stage canvas")
    return 1000 * (time.perf_counter() - began)


def most_memory(server: Served, source: Path) -> float:
    """Megabytes that a server holds at most while downloads of a large photo are written at once."""
    content = io.BytesIO()
    with Image.open(source) as photo:
        photo.resize(LARGEST).save(content, "JPEG", quality=90)
    with httpx.Client(base_url=server.url, timeout=300) as client, ThreadPoolExecutor(SAVES) as visitors:
        photo_id = client.post("/api/photos?name=large.jpg", content=content.getvalue()).json()["photo"]
        question = client.post("/api/explain", json={"photo": photo_id}).json()["maps"][0]["question"]
        formats = ("png", "npz") * (SAVES // 2)
        saves = [visitors.submit(client.post, "/api/save", json={"map": question, "format": format}) for format in formats]
        most = server.memory()
        while not all(save.done() for save in saves):
            most = max(most, server.memory())
            time.sleep(0.02)
        for save in saves:
            save.result().raise_for_status()
    return most


def load() -> str:
    """What else the machine is doing."""
    return ", ".join(f"{each:.1f}" for each in os.getloadavg()) + " (1, 5, 15 minutes)"


if __name__ == "__main__":
    main()
