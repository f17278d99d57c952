"""Writes the results of a benchmark into its own section of a Markdown page, and describes the machine they come from."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

PREFACE = """# Benchmarks

Every section is written by one script of `bench/` and holds what that script measured, misses included.
"""


def write_section(page: Path, name: str, body: str) -> None:
    """Replace one script's section of the page, or append it; all other text stays as it is.

    Args:
        page: the Markdown file; made when it does not exist.
        name: of the section, in the comments `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` around it.
        body: Markdown.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else PREFACE
    section = f"<!-- bench:{name} -->\n\n{body.strip()}\n\n<!-- /bench:{name} -->"
    pattern = re.compile(rf"<!-- bench:{re.escape(name)} -->.*?<!-- /bench:{re.escape(name)} -->", re.DOTALL)
    text, found = pattern.subn(lambda _: section, text)
    if not found:
        text = f"{text.rstrip()}\n\n{section}\n"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, all others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def circumstances(packages: Sequence[str], extra: Sequence[tuple[str, str]] = ()) -> str:
    """A table of what the numbers depend on: date, machine, versions.

    Args:
        packages: distributions whose versions matter; those not installed are left out.
        extra: further rows.
    """
    versions = [f"{name} {metadata.version(name)}" for name in packages if _installed(name)]
    rows = [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{_memory() / 2**30:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"),
        ("versions", ", ".join(versions)),
        *extra,
    ]
    return table(("", ""), rows).replace("---:", "---")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _memory() -> float:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("nan")
