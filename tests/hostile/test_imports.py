"""What starting costs: nothing that needs no torch imports it, and names that come late are the same names."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lucidcam
from lucidcam import registry
from lucidcam.errors import OptionError
from lucidcam.options import catalogue

HEAVY = ("torch", "numpy", "PIL", "matplotlib", "scipy", "torchvision", "transformers", "pandas", "jinja2", "safetensors")

MISTYPED = [
    ["explian"],
    ["trian", "gap"],
    ["methods", "gradcm"],
    ["metrics", "deletio"],
    ["explain"],
    ["explain", "x.jpg", "--metod", "rise"],
    ["explain", "x.jpg", "--method"],
    ["explain", "x.jpg", "--method", "gradcm"],
    ["explain", "x.jpg", "--method", "rise", "--masks", "many"],
    ["explain", "x.jpg", "--method", "gradcam", "--masks", "5"],
    ["explain", "x.jpg", "--alpha", "much"],
    ["evaluate", "x", "--metric", "deletio"],
    ["evaluate", "x", "--metric", "deletion:step=1"],
    ["bench", "--method", "gradcm"],
    ["run", "x", "--out", "y", "--method", "gradcm"],
    ["run", "x"],
    ["localize", "x", "--method", "gradcm"],
    ["audit", "x", "--method", "gradcm"],
    ["discover", "x", "--method", "gradcm"],
]

LISTINGS = [["--version"], ["methods"], ["methods", "gradcam"], ["metrics"], ["metrics", "deletion"], ["models"]]

GROUPS = [[], ["train"], ["study"]]
COMMANDS = ["explain", "app", "channels", "concepts", "report", "evaluate", "audit", "bench", "run", "localize", "discover", "methods"]
NESTED = [["study", "make"], ["study", "serve"], ["study", "report"], ["train", "gap"], ["train", "memory"]]
HELP = [[*words, "--help"] for words in (*GROUPS, *([name] for name in (*COMMANDS, "metrics", "models", "layers")), *NESTED)]

PROGRAM = f"""
import contextlib, io, json, sys
from lucidcam.cli import main
loaded = {{}}
for words in WORDS:
    sys.argv = ["lucidcam", *words]
    code = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
    loaded[" ".join(words)] = code, [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(loaded))
"""


def output_of(code: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("words", "code"), [(MISTYPED, 2), (LISTINGS, 0), (HELP[:12], 0), (HELP[12:], 0)], ids=["mistyped", "listings", "help", "more help"]
)
def test_commands_that_need_no_network_bring_no_torch(words: list[list[str]], code: int) -> None:
    results = json.loads(output_of(f"WORDS = {words!r}{PROGRAM}"))
    assert len(results) == len(words)
    for command, (status, modules) in results.items():
        assert (status, modules) == (code, []), command


def test_names_that_come_late() -> None:
    output_of(f"""
import pickle, sys
import lucidcam
function = lucidcam.methods
assert set(lucidcam.__all__) <= set(dir(lucidcam))
assert pickle.loads(pickle.dumps(function)) is function
for name in ("gradcm", "_nothing", "not an identifier", "a.b"):
    try:
        getattr(lucidcam, name)
    except AttributeError as error:
        assert name in str(error)
    else:
        raise AssertionError(name)
try:
    from lucidcam import gradcm
except ImportError as error:
    assert "gradcm" in str(error)
assert lucidcam.errors.InputError and lucidcam.LucidcamError
assert not set({HEAVY!r}) & set(sys.modules)
""")


@pytest.mark.slow
def test_threads_may_ask_for_the_first_names_at_once() -> None:
    output_of("""
import sys, threading, types
import lucidcam
function = lucidcam.methods
errors = []
def take(start):
    for name in lucidcam.__all__[start:] + lucidcam.__all__[:start]:
        try:
            getattr(lucidcam, name)
        except Exception as error:
            errors.append(f"{name}: {error!r}")
threads = [threading.Thread(target=take, args=(6 * i,)) for i in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not errors, errors
import lucidcam.methods.gradcam, lucidcam.metrics.deletion
from lucidcam.metrics import Figure
assert lucidcam.methods is function and isinstance(lucidcam.metrics, types.FunctionType)
assert lucidcam.imaging.preprocess.Preprocess and lucidcam.nn.memory
from lucidcam import *
assert attribute is lucidcam.attribution.attribute and layers is lucidcam.engine.layers.describe
""")


def test_methods_and_metrics_stay_functions() -> None:
    import lucidcam.methods.gradcam
    from lucidcam.metrics import Figure, deletion

    assert callable(lucidcam.methods)
    assert lucidcam.metrics()["deletion"] is not deletion
    assert Figure.__name__ == "Figure"


def test_the_table_of_names_is_what_type_checkers_see() -> None:
    tree = ast.parse(Path(str(lucidcam.__file__)).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imported = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*imported, "methods", "metrics"} == set(lucidcam.__all__)
    for name, (module, original) in imported.items():
        assert getattr(lucidcam, name) is getattr(sys.modules[module], original), name
        assert not isinstance(getattr(lucidcam, name), ModuleType)


def test_the_catalogue_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(catalogue.FILE.read_text(encoding="utf-8")) == json.loads(json.dumps(catalogue.content())), (
        "methods, metrics or their options have changed: python -m lucidcam.options.catalogue writes what the command line lists"
    )
    from_registries = [catalogue.methods(), catalogue.metrics(), catalogue.settings()]
    monkeypatch.setattr(catalogue, "_are_imported", lambda package: False)
    assert [dict(catalogue.methods()), dict(catalogue.metrics())] == [dict(each) for each in from_registries[:2]]
    assert catalogue.settings() == from_registries[2]
    assert list(catalogue.methods()) == list(registry.methods)
    with pytest.raises(OptionError, match="did you mean 'gradcam'"):
        catalogue.methods()["gradcm"]


@pytest.mark.parametrize("damage", ["absent", "of another state", "no JSON"])
def test_a_catalogue_that_is_out_of_date_is_not_believed(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dict(catalogue.methods())
    stored = json.loads(catalogue.FILE.read_text(encoding="utf-8"))
    stored |= {"digest": "0", "methods": []}
    text = {"absent": None, "of another state": json.dumps(stored), "no JSON": "{"}[damage]
    digest = catalogue.digest()
    monkeypatch.setattr(catalogue, "FILE", tmp_path / "catalogue.json")
    monkeypatch.setattr(catalogue, "digest", lambda: digest)
    monkeypatch.setattr(catalogue, "_are_imported", lambda package: False)
    if text is not None:
        catalogue.FILE.write_text(text, encoding="utf-8")
    catalogue._read.cache_clear()
    try:
        assert dict(catalogue.methods()) == expected
    finally:
        catalogue._read.cache_clear()


def test_a_method_of_ones_own_is_in_the_catalogue() -> None:
    names = set(catalogue.methods())

    @lucidcam.register("late_arrival")
    class Late(lucidcam.Method):
        """A method that was just added."""

        kind = "activation"
        paper = "none"

    try:
        assert set(catalogue.methods()) == names | {"late_arrival"}
        assert catalogue.methods()["late_arrival"].columns == ("none", "1 forward")
    finally:
        del registry.methods._things["late_arrival"]
