"""Work that is killed again and again, by every signal that ends a process, ends with the files of work that never was.

One process starts all others by forks, so that none of them has to import torch.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import runs
import scenes
from lucidcam.errors import LucidcamError
from lucidcam.outputs._labels import Found, Labels
from lucidcam.registry import exporters, writers

SIGNALS = {"run": {"SIGKILL": 40, "SIGINT": 16, "SIGTERM": 14}, "evaluate": {"SIGKILL": 12, "SIGINT": 6, "SIGTERM": 6}}

SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import test_kills
test_kills.kill_again_and_again({work!r}, {folder!r}, {often!r})
"""


PHOTOS = 16


def run(folder):
    import lucidcam

    photos = folder.parent / "photos"
    if not photos.exists():
        photos.mkdir(parents=True)
        for number, image in enumerate(runs.images(PHOTOS)):
            Image.fromarray(image).save(photos / f"{number}.png")
    lucidcam.run(runs.colours(), photos, folder, unit=2, write=("npz", "coco"), progress=False)


def evaluate(folder):
    import lucidcam

    asked = {"baselines": ["uniform"], "resamples": 20, "images_at_once": 2, "progress": False}
    lucidcam.evaluate(runs.colours(), runs.images(PHOTOS), "gradcam", "sparseness", out=folder, **asked)


WORK = {"run": run, "evaluate": evaluate}


def begun(work, folder):
    """A process that works in a folder, in a group of its own."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        WORK[work](folder)
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def kill_again_and_again(work, folder, often):
    """Begin work until all signals were sent, each at a random moment; what is complete is compared, and begun anew."""
    whole, killed = Path(folder, "whole"), Path(folder)
    WORK[work](whole)
    began = time.monotonic()
    WORK[work](Path(folder, "warm"))  # all is imported
    took = time.monotonic() - began
    expected = runs.digests(whole)
    draw = random.Random(0)
    todo = [name for name, times in often.items() for _ in range(times)]
    draw.shuffle(todo)
    sent, number = 0, 0
    while True:
        out = killed / str(number)
        process = begun(work, out)
        if todo:
            time.sleep(draw.random() * took)
            os.kill(process, signal.Signals[todo[-1]])
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if todo and status != 0:
            assert status in (130, -signal.Signals[todo[-1]]), (todo[-1], status)
            todo.pop()
            sent += 1
        if status == 0:
            assert runs.digests(out) == expected, {name for name, digest in runs.digests(out).items() if expected.get(name) != digest}
            if not todo:
                break
            number += 1
    print(sent, "killed")


@pytest.fixture
def bounded_files():
    """Lets no file become larger than so many bytes: writing fails then, as it does on a full disk."""
    handler, (most, hard) = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def bounded(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))

    yield bounded
    signal.signal(signal.SIGXFSZ, handler)


def sizes(folder):
    """Of the files of a folder, in order, each once."""
    return sorted({each.stat().st_size for each in folder.rglob("*") if each.is_file()})


@pytest.mark.parametrize("at", ["the first file", "a file", "the largest file"])
@pytest.mark.parametrize("work", WORK)
def test_a_full_disk_ends_work_that_goes_on_later(tmp_path, work, at, bounded_files):
    WORK[work](tmp_path / "whole")
    found = sizes(tmp_path / "whole")
    most = {"the first file": 0, "a file": found[len(found) // 2], "the largest file": found[-1] - 1}[at]
    with bounded_files(most), pytest.raises(LucidcamError, match="cannot") as told:
        WORK[work](tmp_path / "full")
    assert len(str(told.value).splitlines()) == 1
    WORK[work](tmp_path / "full")
    assert runs.digests(tmp_path / "full") == runs.digests(tmp_path / "whole")


def labels(folder, name):
    photo = Image.fromarray(runs.images(1)[0])
    with exporters[name](folder / "labels") as exporter:
        for image in ("a", "b"):
            mask = np.ones((40, 50), bool)
            exporter.write(Labels(image, None, 50, 40, (Found("cat", (0, 0, 50, 40), 0.5, mask),), photo))


def explanation(folder, suffix):
    import lucidcam

    [one] = lucidcam.explain(runs.colours(), runs.images(1)[0])
    one.save(folder / f"map.{suffix}")


def regions(folder, _):
    import lucidcam

    lucidcam.discover(scenes.model(), scenes.samples(2), target="red").save(folder / "regions")


def channels(folder, suffix):
    import lucidcam

    lucidcam.channels(scenes.model(), scenes.samples(1)[0].image).save(folder / f"channels.{suffix}")


RESULTS = {
    **{f"labels as {name}": (labels, name) for name in sorted(exporters)},
    **{f"an explanation as {name}": (explanation, name) for name in sorted(writers)},
    "regions": (regions, ""),
    "channels as png": (channels, "png"),
    "channels as json": (channels, "json"),
}


@pytest.mark.parametrize("at", ["the first file", "the largest file"])
@pytest.mark.parametrize("result", RESULTS)
def test_results_that_do_not_fit_the_disk_are_one_line(tmp_path, result, at, bounded_files):
    write, kind = RESULTS[result]
    (tmp_path / "whole").mkdir()
    (tmp_path / "full").mkdir()
    write(tmp_path / "whole", kind)
    most = 0 if at == "the first file" else sizes(tmp_path / "whole")[-1] - 1
    with bounded_files(most), pytest.raises(LucidcamError, match="cannot") as told:
        write(tmp_path / "full", kind)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.parametrize("work", WORK)
def test_work_that_is_killed_goes_on_to_the_same_files(tmp_path, work):
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    script = SCRIPT.format(paths=paths, work=work, folder=str(tmp_path), often=SIGNALS[work])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(SIGNALS[work].values())} killed" in done.stdout
    assert not list(tmp_path.rglob("*.tmp"))
