"""Helpers of the tests are modules beside them; what collecting them made is left out of garbage collections."""

import gc
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_finish() -> None:
    """Put aside what stays until the end: modules and thousands of tests, which each collection would look through again."""
    gc.collect()
    gc.freeze()
