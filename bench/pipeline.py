"""What `lucidcam.run` sustains, survives and costs, and what that means for a cluster.

    make bench-pipeline DATA=photos/                               # all parts
    python bench/pipeline.py --data photos/                        # photos are looked for at any depth; default: some of scikit-image
    python bench/pipeline.py --parts kills ray --images 200        # smaller

Writes a section of docs/benchmarks.md per part, and the figures of docs/cluster.md. Each part says what its clock is: processor time does not
count what other processes do meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor, nn

import fleet
import growth
import stages
import survival
from apart import Apart, Seen, waited
from lucidcam.costs.timing import Ratio
from networks import network
from report import circumstances, table, write_section
