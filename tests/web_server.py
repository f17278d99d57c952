"""The web app in a process of its own, for tests: `served(…)` gives its address and the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lucidcam

SEEN = (str(Path(__file__).parent), str(Path(lucidcam.__file__).parent.parent))
"""Where the server's process finds the networks of the tests, and the very lucidcam that is tested."""


@dataclass
class Served:
    """A running server.

    Attributes:
        url: of the page.
        process: number of the process.
        log: what it has written to standard error.
    """

    url: str
    process: int
    log: Path

    def memory(self) -> float:
        """Megabytes that the process holds."""
        import psutil

        return psutil.Process(self.process).memory_info().rss / 1e6


@contextmanager
def served(tmp_path: Path, **options: object) -> Iterator[Served]:
    """Serve two small networks, "tiny" and "other"; with `demo=True` the embedded one, with `unhurried=True` a "tiny" that takes its time.

    The other `options` go to `serve` and `Limits`.
    """
    log = tmp_path / "server.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(SEEN)}
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(options)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text(encoding="utf-8")
            told = json.loads(line)
            yield Served(told["url"], process.pid, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def main(options: dict) -> None:
    import torch

    import lucidcam
    from lucidcam.web import Limits, serve
    from web_nets import tiny, unhurried

    torch.set_num_threads(1)
    first = unhurried if options.pop("unhurried", False) else tiny
    models = {"demo": lucidcam.load("demo")} if options.pop("demo", False) else {"tiny": first(), "other": tiny(1)}
    auth = options.pop("auth", None)
    server = serve(models, port=0, wait=False, auth=tuple(auth) if auth else None, limits=Limits(**options))
    print(json.dumps({"url": server.url}), flush=True)
    server.wait()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
