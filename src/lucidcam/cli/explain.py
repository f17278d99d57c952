"""`lucidcam explain`: pictures of where a model looks, for files, folders, globs or standard input."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lucidcam.cli._common import (
    DEFAULT_LOADING,
    LayerOption,
    LoadOptions,
    ModelOption,
    OptimizeOption,
    load_model,
    method_flags,
    report,
)
from lucidcam.cli._concepts import KEPT, Speaker
from lucidcam.cli._task_options import FLAGS, Beyond
from lucidcam.cli.report import ReportOption, write_page
from lucidcam.errors import InputError, OptionError
from lucidcam.io.ownership import OwnedFiles
from lucidcam.io.storage import check_writable, json_text, parsed_json, write_whole
from lucidcam.utils.progress import bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lucidcam import Explanation, Model
    from lucidcam.reports.explanations import Gathered
    from lucidcam.types import Prepared

BEYOND = "Beyond classification: for models that do more"


def explain(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, globs, folders, addresses, or - for standard input.")],
    model: ModelOption = "demo",
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Repeatable; see [b]lucidcam methods[/b]. [dim]default: gradcam[/dim]")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", "--class", help="Label or class id, top5, all. Repeatable. [dim]default: the predicted class[/dim]"),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Why the target rather than this label?")] = None,
    probability: Annotated[bool, typer.Option("--probability", help="Explain the probability instead of the logit.")] = False,
    caption: Annotated[
        str | None, typer.Option(help="Why this sentence? own: the model's own.", rich_help_panel=BEYOND, metavar="TEXT|own")
    ] = None,
    word: Annotated[list[str] | None, typer.Option(help="Why this word of it? all: each. Repeatable.", rich_help_panel=BEYOND)] = None,
    question: Annotated[str | None, typer.Option(help="Why the answer to this?", rich_help_panel=BEYOND)] = None,
    answer: Annotated[list[str] | None, typer.Option(help="Why this answer? Repeatable.", rich_help_panel=BEYOND)] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What fits this text? Repeatable.", rich_help_panel=BEYOND)] = None,
    box: Annotated[
        list[str] | None, typer.Option(help="Why the detection at x1,y1,x2,y2 (photo's pixels)? Repeatable.", rich_help_panel=BEYOND)
    ] = None,
    region: Annotated[
        Path | None, typer.Option(help="Why the class there? A mask of the photo: white is meant.", rich_help_panel=BEYOND)
    ] = None,
    layer: LayerOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("lucidcam-out"),
    format: Annotated[
        list[str] | None,
        typer.Option("--format", help="png, jpg, webp, tiff, bmp, gif, html, npz, json. Repeatable. [dim]default: png, of clips gif[/dim]"),
    ] = None,
    colormap: Annotated[str, typer.Option(help="Any matplotlib colormap.")] = "turbo",
    alpha: Annotated[float, typer.Option(help="Share of the heatmap in the overlay, 0 to 1.")] = 0.5,
    threshold: Annotated[float, typer.Option(help="Boxes enclose what is above this share of the maximum.")] = 0.2,
    boxes: Annotated[bool, typer.Option("--boxes", help="Draw the boxes.")] = False,
    in_words: Annotated[bool, typer.Option("--words", help="Also say why in words: concepts that the network's channels see.")] = False,
    concepts: Annotated[
        str | None,
        typer.Option(help="For --words: names.json of [b]lucidcam concepts[/b], or a bank's folder. [dim]default: built in[/dim]"),
    ] = None,
    optimize: OptimizeOption = False,
    loading: LoadOptions = DEFAULT_LOADING,
    page: ReportOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print explanations.json to standard output.")] = False,
) -> None:
    """Explain images: one picture per image, method and class, and explanations.json.

    Exit code 0: all right; 1: some inputs failed (the rest is written); 2: usage.
    """
    if concepts is not None and not in_words:
        raise OptionError("--concepts is for --words.")
    methods, words = method_flags(context, method or ["gradcam"], paths)
    if not words:
        raise OptionError("expected at least one image, folder or glob, or - for standard input.")
    import lucidcam
    from lucidcam.engine.layers import check as check_layer  # these bring torch
    from lucidcam.io.images import find
    from lucidcam.io.remote import is_url
    from lucidcam.reports import check as check_page
    from lucidcam.samples import Problem
    from lucidcam.stream.problems import check_general

    look = _Look(out, format or [], colormap, alpha, threshold, boxes)
    look.check(*((KEPT, "words.json") if in_words else ()))
    if page is not None:
        check_page(page)
    sources: list[Path | str] = []
    failures: list[dict[str, str]] = []
    for place in words:
        if is_url(place):
            sources.append(place)
            continue
        found, problems = find([place] if place != "-" else [])
        sources += found
        failures += [{"image": place, "error": problem} for problem in problems]
    look.protect(sources)
    wanted: list[Any] = [*sources, *([sys.stdin.buffer.read()] if "-" in words else [])]
    if not wanted:  # nothing to explain: no model is needed to say so
        look.write_index([], failures)
        problem = failures[0]["error"]
        raise InputError(problem if len(failures) == 1 else f"none of {len(failures)} paths can be used; the first: {problem}")
    loaded = load_model(model, loading, optimize)
    beyond = Beyond(caption, word, question, answer, prompt, box, region)
    spoken = beyond.targets(loaded, target, against)
    asked = _target(loaded, spoken or target, None if spoken else against, probability)
    for name in layer or []:
        check_layer(loaded.module, name)
    speaker = Speaker.of(loaded, concepts, layer, look.owned, look.stem) if in_words else None
    entries: list[dict[str, Any]] = []
    gathered = None if page is None else _gathered(len(wanted), colormap, alpha)

    def example(prepared: Prepared) -> None:
        for kind, options in methods:
            lucidcam.explain(loaded, [prepared], kind, asked, layer, progress=False, **options)

    try:
        with bar(len(wanted), "explaining", False if as_json or len(wanted) < 2 else None) as advance:
            for source in wanted:
                name = "standard input" if isinstance(source, bytes) else str(source)
                try:
                    prepared = [replace(each, name=name) for each in loaded.prepare(source)]
                    for kind, options in methods:
                        inner = False if len(wanted) > 1 else None
                        explanations = lucidcam.explain(loaded, prepared, kind, asked, layer, progress=inner, **options)
                        entries += [look.write(explanation) for explanation in explanations]
                        if gathered is not None:
                            gathered.extend(explanations)
                    if speaker is not None:
                        speaker.say(prepared, [each.target for each in explanations], asked)
                except Exception as error:  # the model's own, too: one bad image does not end the run
                    check_general(loaded, error, example)
                    failures.append({"image": name, "error": Problem.of(name, error).error})
                advance(1)
    finally:
        look.write_index(entries, failures)
        if speaker is not None:
            speaker.write()
    if as_json:
        typer.echo(json_text(entries, indent=2))
    else:
        _show(entries, look)
        if speaker is not None:
            speaker.show()
    if page is not None and gathered is not None and entries:
        write_page(gathered, page, told=not as_json, model=loaded, failures=failures)
    report([each["error"] for each in failures], shown=len(failures))


def _gathered(count: int, colormap: str, alpha: float) -> Gathered:
    from lucidcam.reports.explanations import Gathered

    return Gathered(count, colormap=colormap, alpha=alpha)


def _target(model: Model, targets: Sequence[Any] | None, against: str | None, probability: bool) -> Any:
    """What the flags ask for, with labels turned into ids now, so that a mistyped one is answered before any work."""
    from lucidcam.targets import Contrast, Probability, Target
    from lucidcam.targets.resolve import resolve_target

    if model.task is not None:
        given = list(targets or [])
        one: Any = given[0] if len(given) == 1 else given or None
        flag = FLAGS.get(model.task.name)
        if not given and flag in ("question", "prompt"):
            raise OptionError(f"{model.name} does {model.task.name}: give --{flag}.")
        if probability:
            raise OptionError(f"--probability is for classification; {model.name} does {model.task.name}.")
        if against and len(given) != 1:
            raise OptionError("--against needs one thing to compare with.")
        return resolve_target(Contrast(one, against) if against else one, model)
    texts = list(dict.fromkeys(targets or []))
    found = list(dict.fromkeys(resolve_target(text, model) for text in texts))
    if len(found) > 1:
        for text, each in zip(texts, found, strict=False):
            if isinstance(each, Target):
                raise OptionError(f"{text!r} cannot be combined with other targets.")
        if against or probability:
            raise OptionError(f"{'--against' if against else '--probability'} needs one --target.")
        return [found]
    asked = found[0] if found else None
    if against:
        asked = Contrast(asked, resolve_target(against, model))
    return Probability(asked) if probability else asked


@dataclass
class _Look:
    """What is written, and how it looks."""

    out: Path
    formats: list[str]
    colormap: str
    alpha: float
    threshold: float
    boxes: bool
    used: set[str] = field(default_factory=set)
    owned: OwnedFiles = field(init=False)

    def check(self, *names: str) -> None:
        """Refuse bad options before any work, and a folder where one of these files is someone else's."""
        from lucidcam import registry
        from lucidcam.imaging import render

        for name in self.formats:
            registry.writers[name]
        render.check(self.colormap, self.alpha, self.threshold)
        check_writable(self.out, "explanations.json")
        self.owned = OwnedFiles(self.out)
        self.owned.check("explanations.json", *names)
        self.out.mkdir(parents=True, exist_ok=True)

    def protect(self, sources: Sequence[Path | str]) -> None:
        """Never write over one of the images that are explained."""
        self.owned = OwnedFiles(self.out, [each for each in sources if isinstance(each, Path)])

    def write(self, explanation: Explanation) -> dict[str, Any]:
        """Write one explanation in every format; return its entry in the index."""
        stem = self.stem(explanation.name, explanation.method.replace("+", "p"), _short(explanation.label, explanation.target))
        files = []
        for name in self.formats or (["gif"] if explanation.film else ["png"]):
            path = self.owned.path(f"{stem}.{name}")
            if name not in ("html", "npz", "json"):
                options: dict[str, Any] = {"colormap": self.colormap, "alpha": self.alpha}
                if self.boxes:
                    options |= {"threshold": self.threshold} if name == "gif" else {"boxes": explanation.boxes(self.threshold)}
            else:
                options = {"threshold": self.threshold}
            explanation.save(path, **options)
            files.append(str(path))
        return {**explanation.to_dict(self.threshold), "files": files}

    def stem(self, image: str, kind: str, label: str) -> str:
        """A file's name without its ending, that no other file of this run has."""
        parts = ["stdin" if image == "standard input" else Path(image).stem, kind, label]
        stem = "-".join(re.sub(r"[^\w.]+", "_", part).strip("_")[:60] for part in parts)
        number, unique = 2, stem
        while unique in self.used:
            unique, number = f"{stem}-{number}", number + 1
        self.used.add(unique)
        return unique

    def write_index(self, entries: list[dict[str, Any]], failures: list[dict[str, str]]) -> None:
        """Write explanations.json, and failures.json where there are any."""
        write_whole(self.owned.path("explanations.json"), (json_text(entries, indent=2) + "\n").encode())
        told = self.out / "failures.json"
        if failures:
            if _are_failures(told):
                told.unlink()
            write_whole(self.owned.path(told.name), (json_text(failures, indent=2) + "\n").encode())
        elif _are_failures(told):
            told.unlink()  # of an earlier run


def _are_failures(path: Path) -> bool:
    """Whether a file is a list of failures as `write_index` writes it, and none of the user's of that name."""
    try:
        content = parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, list) and bool(content) and all(isinstance(each, dict) and "error" in each for each in content)


def _show(entries: list[dict[str, Any]], look: _Look) -> None:
    from rich.markup import escape

    from lucidcam.cli._common import out, table

    if not entries:
        return
    listing = table("image", "method", "class", "probability", "box")
    for entry in entries[:50]:
        probability = "" if entry["probability"] is None else f"{entry['probability']:.3f}"
        box = "" if entry["box"] is None else ",".join(map(str, entry["box"]))
        words = [escape(word) for word in (Path(entry["image"]).name, entry["method"], _short(entry["label"], entry["id"]))]
        listing.add_row(*words, probability, box)
    out.print(listing)
    notes = dict.fromkeys(entry["note"] for entry in entries if "note" in entry)
    for note in notes:
        out.print(f"[dim]{escape(note[0].upper() + note[1:])}.[/dim]")
    if not notes and any(entry["box"] is None for entry in entries[:50]):
        out.print("[dim]No box: nothing in the map speaks for the target.[/dim]")
    if len(entries) > 50:
        out.print(f"[dim]… and {len(entries) - 50} more[/dim]")
    out.print(f"\n{len(entries)} explained; pictures and explanations.json are in")
    out.print(str(look.out), soft_wrap=True, markup=False)


def _short(label: str, id: int | None) -> str:
    """A class without its synonyms; what is no class as it is."""
    return label if id is None else label.split(",")[0]
