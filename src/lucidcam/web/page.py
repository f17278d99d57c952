"""The page: what stands where, and which action does what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from lucidcam.web import judging, questions, showing
from lucidcam.web.actions import BLANK, Actions
from lucidcam.web.components import Classes, Layer, Number, Photo, Slider, Viewer
from lucidcam.web.examples import write_examples
from lucidcam.web.studio import Studio

HERE = Path(__file__).parent


def build(studio: Studio) -> gr.Blocks:
    """The page on a studio's models."""
    act, served = Actions(studio), next(iter(studio.served.values()))
    limits = studio.limits
    with gr.Blocks(title="lucidcam", analytics_enabled=False, delete_cache=(min(300, limits.kept), limits.kept), fill_width=True) as page:
        gr.HTML("<h1>lucidcam</h1><p>Where a network looks, and whether to believe it.</p>", elem_id="lucid-head", js_on_load=None)
        with gr.Row(elem_id="lucid-page"):
            with gr.Column(elem_id="lucid-give"):
                photo = Photo(
                    label="Photo", sources=["upload", "clipboard"], type="filepath", height=190, elem_id="lucid-photo", buttons=[]
                )
                found = write_examples(Path(gr.utils.get_upload_folder(), "examples"))
                given = gr.Examples([[each] for each in found], inputs=photo, label="Examples", api_visibility="private") if found else None
                classes = Classes(
                    label="Classes", choices=[], value=[], elem_id="lucid-classes", info="The likeliest five. Several: side by side."
                )
            with gr.Column(elem_id="lucid-look"):
                viewer = Viewer(
                    None,
                    label="maps",
                    html_template='<div class="lucid-stage"></div>',
                    css_template=(HERE / "viewer.css").read_text(encoding="utf-8"),
                    js_on_load=(HERE / "viewer.js").read_text(encoding="utf-8"),
                    palettes=showing.palettes(),
                    elem_id="lucid-viewer",
                )
                note = gr.Markdown("", label="layer", elem_id="lucid-note")
                with gr.Group(), gr.Row(elem_id="lucid-style"):
                    opacity = Slider(0, 1, 0.5, step=0.01, label="Opacity", elem_id="lucid-opacity", min_width=150)
                    threshold = Slider(0, 1, 0.2, step=0.01, label="Threshold", elem_id="lucid-threshold", min_width=150)
                    colormap = gr.Dropdown(list(showing.COLORMAPS), value="turbo", label="Colours", elem_id="lucid-colormap", min_width=110)
                    with gr.Column(min_width=150):
                        boxes = gr.Checkbox(True, label="Boxes at the threshold", elem_id="lucid-boxes")
                        hide = gr.Checkbox(False, label="Hide what is below it", elem_id="lucid-hide")
                with gr.Row(elem_id="lucid-do"):
                    judge = gr.Button("Judge this map", size="sm", elem_id="lucid-judge", min_width=130)
                    save = [
                        gr.Button(f"Save {each.upper()}", size="sm", elem_id=f"lucid-save-{each}", min_width=90)
                        for each in ("png", "npz", "json")
                    ]
                    stop = gr.Button("Stop", size="sm", elem_id="lucid-stop", min_width=70)
                place = gr.HTML("", label="place", elem_id="lucid-pixel", js_on_load=None)
                verdict = gr.HTML("", label="verdict", elem_id="lucid-verdict", js_on_load=None)
            with gr.Column(elem_id="lucid-ask"):
                model = gr.Dropdown(
                    list(studio.served), value=served.name, label="Model", elem_id="lucid-model", visible=len(studio.served) > 1
                )
                others = gr.Textbox(
                    "", label="Other classes", placeholder="label or id; more after ; then Enter", elem_id="lucid-others", max_lines=1
                )
                against = gr.Textbox(
                    "", label="Rather than", placeholder="why not this class? then Enter", elem_id="lucid-against", max_lines=1
                )
                methods = gr.Dropdown(
                    list(served.methods),
                    value=["gradcam"],
                    multiselect=True,
                    label="Methods",
                    elem_id="lucid-methods",
                    info="Several: side by side.",
                )
                layer = Layer(
                    0,
                    len(served.places) - 1,
                    served.default,
                    step=1,
                    label="Layer",
                    info="From the image to the classes.",
                    elem_id="lucid-layer",
                )
                options = gr.Textbox("", visible=False, label="Options of methods, as JSON")
                with gr.Accordion("Options of the methods", open=False, elem_id="lucid-options"):
                    _options(page, methods, options)
                    steps = Slider(8, 224, judging.STEPS, step=8, label="Points of the curves of a judgement", elem_id="lucid-steps")
        which, x, y = (Number(value, visible=False, label=name) for name, value in (("map", 0), ("x", 0.5), ("y", 0.5)))
        format = gr.Textbox("png", visible=False, label="format")
        made = gr.File(visible=False, label="file")
        told, judged, listed = (gr.JSON(visible=False, label=name) for name in ("channels", "metrics", "layers"))

        question = [photo, model, layer, methods, classes, others, against, options]
        seen = [classes, viewer, note, place, verdict]
        shared: dict[str, Any] = {"concurrency_limit": limits.together, "concurrency_id": "work", "show_progress_on": viewer}
        looks = [
            photo.upload(act.look, [photo, model, layer, methods, options], seen, api_name="look", trigger_mode="always_last", **shared),
            photo.clear(lambda: BLANK, None, seen, api_visibility="private"),
        ]
        if given is not None:
            example = given.load_input_event
            looks.append(example.then(act.look, [photo, model, layer, methods, options], seen, api_visibility="private", **shared))
        looks.append(model.input(act.model, [model, photo], [layer, methods, *seen], api_name="model", **shared))
        for each in looks:
            each.failure(lambda: BLANK, None, seen, api_visibility="private")  # a map of another photo would mislead
        gr.on(
            [classes.input, methods.input, layer.input, others.submit, against.submit, options.change],
            act.explain, question, [viewer, note], api_name="explain", trigger_mode="always_last", **shared,
        ).success(None, None, [place, verdict], js="() => ['', '']")  # fmt: skip
        viewer.click(
            act.pixel, [*question, which, x, y], [place, told], api_name="pixel", trigger_mode="always_last",
            js="(...all) => [...all.slice(0, 8), ...window.lucidcam.spot]", concurrency_limit=limits.together, concurrency_id="work",
            show_progress_on=place,
        )  # fmt: skip
        judge.click(
            act.metrics, [*question, which, steps], [verdict, judged], api_name="metrics",
            js="(...all) => [...all.slice(0, 8), window.lucidcam.judged(), all[9]]",
            concurrency_limit=limits.together, concurrency_id="work", show_progress_on=verdict,
        )  # fmt: skip
        style = [colormap, opacity, threshold, boxes, hide]
        for number, button in enumerate(save):
            kind = button.value.split()[-1].lower()
            button.click(
                act.save, [*question, which, format, *style], made, api_name="save" if number == 0 else f"save_{kind}",
                js=f"(...all) => [...all.slice(0, 8), window.lucidcam.chosen(), '{kind}', ...all.slice(10)]",
                api_visibility="public" if number == 0 else "private", concurrency_limit=2, concurrency_id="save",
            ).success(None, made, None, js="(file) => window.lucidcam.save(file)")  # fmt: skip
        stop.click(act.stop, None, None, api_name="stop", queue=False)  # also when the queue is full
        page.load(act.layers, model, listed, api_name="layers", concurrency_limit=None)
        page.unload(act.stop)
        for name, control in {"opacity": opacity, "threshold": threshold, "boxes": boxes, "hide": hide, "colormap": colormap}.items():
            control.change(None, control, None, js=f"(value) => {{ window.lucidcam.set({{ {name}: value }}); }}")
    page.queue(max_size=limits.waiting, api_open=False)
    return page


def _options(page: gr.Blocks, methods: gr.Dropdown, options: gr.Textbox) -> None:
    """A widget for each option of the chosen methods; what is changed goes into the JSON text."""

    @gr.render(inputs=[methods, options], triggers=[page.load, methods.change])  # type: ignore[untyped-decorator]
    def widgets(chosen: list[str], text: str) -> None:
        given = json.loads(text or "{}")
        for method in chosen:
            known = questions.choices(method)
            if known:
                gr.Markdown(f"**{method}**")
            for each in known:
                value = given.get(method, {}).get(each.name, each.default)
                _connected(method, each, value, options)
        if not any(questions.choices(method) for method in chosen):
            gr.Markdown("None.")


def _connected(method: str, choice: questions.Choice, value: Any, options: gr.Textbox) -> None:
    widget = _widget(choice, value)
    merge = f"""(text, value) => {{
        const all = JSON.parse(text || "{{}}"), mine = all[{json.dumps(method)}] || {{}};
        mine[{json.dumps(choice.name)}] = value;
        all[{json.dumps(method)}] = mine;
        return JSON.stringify(all);
    }}"""
    event = (
        widget.release if isinstance(widget, gr.Slider) else widget.submit if isinstance(widget, (gr.Textbox, gr.Number)) else widget.change
    )
    event(None, [options, widget], options, js=merge)


def _widget(choice: questions.Choice, value: Any) -> Any:
    if choice.kind == "bool":
        return gr.Checkbox(bool(value), label=choice.name)
    if choice.kind == "one of":
        return gr.Dropdown(list(choice.among), value=str(value), label=choice.name)
    if choice.kind == "int":
        return gr.Slider(choice.low, choice.high, value, step=1, label=choice.name)
    if choice.kind == "float":
        return gr.Slider(choice.low, choice.high, value, step=0.01, label=choice.name)
    return gr.Textbox(str(value), label=choice.name, max_lines=1)
