"""What `lucidcam.run` sustains, survives and costs, and what that means for a cluster.

    make bench-pipeline DATA=photos/                               # all parts
    python bench/pipeline.py --data photos/                        # photos at any depth of a folder; default: some of scikit-image
    python bench/pipeline.py --parts kills ray --share 0.1         # with a tenth of the images

Writes one section of docs/benchmarks.md per part, and the figures of docs/cluster.md. Each part says which clock it reads: processor time
does not count what other processes do meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import lucidcam
from lucidcam.data import open_data
from report import circumstances, write_section
from scale import growth, safety, sizing, speed
from scale.fodder import NETWORKS, network

PARTS = {
    "throughput": speed.throughput,
    "decoder": speed.decoder,
    "ray": speed.ray,
    "kills": safety.kills,
    "memory": safety.memory,
    "growth": growth.growth,
    "stages": sizing.stages,
    "simulate": sizing.simulate,
}
PACKAGES = ("lucidcam", "torch", "numpy", "pillow", "pyarrow", "zarr", "ray")
DOCS = Path(__file__).resolve().parents[1] / "docs"


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def one(asked: dict[str, Any]) -> None:
    """A run in this process, as told by another one (`scale.apart.Apart`)."""
    model = network(asked.pop("network"), asked.pop("side", None))
    data, out = open_data(asked.pop("photos")).first(asked.pop("count", None)), asked.pop("out")
    lucidcam.run(model, data, out, **{"target": "predicted", "progress": False, **asked})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of photos, looked through at any depth (default: some of scikit-image)")
    parser.add_argument("--parts", nargs="+", metavar="PART", choices=PARTS, default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of images: 0.05 for a trial (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (default 3)")
    parser.add_argument("--turns", type=int, default=10, help="of throughput (default 10)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["demo", "resnet50"], help="of throughput and stages")
    parser.add_argument("--kills", type=int, default=20, help="per run (default 20)")
    parser.add_argument("--engines", nargs="+", choices=("processes", "ray"), help="of kills (default both)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills and of the simulation (default 0)")
    parser.add_argument("--deaths", type=float, default=1.0, help="of the simulation: workers that die, per 1,000 core hours (default 1)")
    parser.add_argument("--price", type=float, default=0.01, help="of the sizing: dollars per core hour (default 0.01)")
    parser.add_argument("--temporary", type=Path, help="folder for photos and runs; both are removed (default: the system's)")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of benchmarks.md and cluster.md, with pictures/ (default docs)")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.one:
        one(options.one)
        return
    intro = (
        "What `lucidcam.run` sustains, survives and costs. Each part says when and on what it was measured, and whether its target holds."
    )
    write_section(options.out / "benchmarks.md", "pipeline", f"## Runs over data sets\n\n{intro}")
    given = [*(["--share", f"{options.share:g}"] if options.share != 1 else []), *(["--data", "photos/"] if options.data else [])]
    for name in [part for part in PARTS if part in options.parts]:
        say(f"{name} …")
        with tempfile.TemporaryDirectory(dir=options.temporary, ignore_cleanup_errors=True) as folder:
            body = PARTS[name](options, Path(folder), say)
        command = [("command", f"`{shlex.join(['python', 'bench/pipeline.py', '--parts', name, *given])}`")]
        write_section(options.out / "benchmarks.md", f"pipeline-{name}", f"{body}\n\n{circumstances(PACKAGES, command)}")
        say(f"\n{body}\n")


if __name__ == "__main__":
    main()
