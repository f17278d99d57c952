// The page: what is chosen, what is asked, and what is shown.
//
// Everything that is shown belongs to the answer it came with: each map carries its own question, and a click, a judgement and a download
// send that one, whatever the controls say by then. Whatever is asked anew ends what was asked before; late answers are dropped.

import { Refused, Tasks, compute, download, get, post, upload } from "./api.js";
import { chart } from "./charts.js";
import { Viewer, tablesOf } from "./viewer.js";

const at = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const short = (label) => label.split(",")[0];

const EMPTY = "Give a photo, or take one of the examples.";

const about = await get("api/about");
const tasks = new Tasks();
const state = {
  photo: null, // { id, name, width, height, blob }: what the server has accepted last
  model: about.models[0],
  layer: about.models[0].layer,
  methods: ["gradcam"].filter((name) => about.models[0].methods.includes(name)),
  options: {}, // of each method, those that were changed
  classes: [], // ids that are chosen
  against: null, // { id, label }
  scores: [], // the likeliest classes of the photo
  labels: new Map(), // of ids that are on the page
  answer: null,
};
if (!state.methods.length) state.methods = [about.models[0].methods[0]];

const viewer = new Viewer(at("stage"), tablesOf(about.colormaps), { inspect, choose: chosenChanged });

// ------------------------------------------------------------------------------------------------------------- messages

function say(id, words) {
  at(id).textContent = words;
  at(id).hidden = !words;
}

// Tell why something was refused; being stopped is no error.
function explainRefusal(id, error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) console.error(error);
  say(id, error instanceof Refused ? error.message : `The page itself has a fault: ${error.message}`);
}

function working(words) {
  say("status", words);
  at("progress").hidden = at("stop").hidden = !words;
  if (words) at("progress").removeAttribute("value");
  at("stage").classList.toggle("waiting", Boolean(words));
}

const progress = (share) => { if (share !== null) at("progress").value = share; };

// --------------------------------------------------------------------------------------------------------------- photos

const TOO_LARGE = () => `Expected a file of at most ${about.limits.megabytes} MB`;

async function givePhoto(blob, name) {
  if (blob.size > about.limits.megabytes * 1e6) {
    say("photo-message", `${TOO_LARGE()}; ${name} has ${(blob.size / 1e6).toFixed(1)} MB.`);
    return;
  }
  await takePhoto((signal) => upload(blob, name, signal), blob, name);
}

// `accept` asks the server for a photo; until it has said yes, the old one stays.
async function takePhoto(accept, blob, name) {
  const task = tasks.begin("photo");
  say("photo-message", "");
  say("photo-facts", `Uploading ${name} …`);
  try {
    const accepted = await accept(task.signal);
    if (!tasks.done("photo", task)) return;
    forget();
    tasks.end();
    const old = at("thumbnail").src;
    state.photo = { ...accepted, id: accepted.photo, blob };
    Object.assign(state, { classes: [], against: null, scores: [], answer: null });
    state.labels.clear();
    at("against").value = "";
    say("photo-facts", `${accepted.name}, ${accepted.width}×${accepted.height}`);
    if (blob) {
      at("thumbnail").src = URL.createObjectURL(blob);
      if (old.startsWith("blob:")) URL.revokeObjectURL(old);
    }
    at("thumbnail").hidden = !blob;
    at("drop").classList.add("filled");
    at("drop-words").textContent = "Another photo: drop, paste or choose";
    showNothing("Explaining …");
    enable();
    await ask();
  } catch (error) {
    if (!tasks.done("photo", task)) return;
    say("photo-facts", state.photo ? `${state.photo.name}, ${state.photo.width}×${state.photo.height}` : "");
    explainRefusal("photo-message", error);
  }
}

function forget() {
  if (state.photo) post("api/forget", { photo: state.photo.id }).catch(() => {});
}

// Do something with the photo; where the server has let it go meanwhile, upload it once more first.
async function withPhoto(action, signal) {
  try {
    return await action();
  } catch (error) {
    if (error.type !== "PhotoGone" || !state.photo || !state.photo.blob) throw error;
    const old = state.photo, again = await upload(old.blob, old.name, signal);
    if (state.photo !== old) throw error;
    old.id = again.photo; // maps that are shown name the photo by its old id; `current` puts the new one in
    return action();
  }
}

const current = (question) => ({ ...question, photo: state.photo.id });

// ----------------------------------------------------------------------------------------------------------------- maps

const question = () => ({
  photo: state.photo.id,
  model: state.model.name,
  layer: state.layer,
  methods: state.methods,
  options: Object.fromEntries(state.methods.map((name) => [name, state.options[name] || {}])),
  classes: state.classes,
  against: state.against ? state.against.id : null,
});

async function ask() {
  if (!state.photo) return;
  const task = tasks.begin("maps");
  say("message", "");
  working("Explaining …");
  try {
    const answer = await withPhoto(() => compute("api/explain", question(), task.signal, (share) => { if (task.isCurrent()) progress(share); }), task.signal);
    if (!task.isCurrent()) return;
    const shown = await viewer.show(answer);
    if (!shown || !tasks.done("maps", task)) return;
    working("");
    tasks.end("place", "verdict", "save");
    state.answer = answer;
    state.scores = answer.scores;
    for (const each of answer.scores) state.labels.set(each.id, each);
    for (const map of answer.maps) if (!state.labels.has(map.id) && map.id !== null) state.labels.set(map.id, { id: map.id, label: map.label });
    state.classes = answer.question.classes;
    at("style").hidden = at("do").hidden = false;
    say("save-message", "");
    showPlace(null);
    showVerdict(null);
    showClasses();
  } catch (error) {
    if (!tasks.done("maps", task)) return;
    working("");
    explainRefusal("message", error);
    if (!state.answer) viewer.clear("There is no map.");
  }
}

function stop() {
  tasks.end("maps", "verdict", "place");
  working("");
  say("status", "Stopped.");
  for (const id of ["place", "verdict"]) at(id).classList.remove("waiting");
  if (!state.answer) viewer.clear(state.photo ? "There is no map." : EMPTY);
}

function showNothing(words) {
  viewer.clear(words);
  at("style").hidden = at("do").hidden = true;
  say("message", "");
  say("save-message", "");
  showPlace(null);
  showVerdict(null);
  showClasses();
}

const nameOf = (map) => `${map.label} by ${map.method}`;

function chosenChanged(map) {
  at("chosen").textContent = state.answer && state.answer.maps.length < 2 ? "" : `Chosen: ${nameOf(map)}, ${map.layer}`;
}

// ------------------------------------------------------------------------------------------------- answers about a map

async function inspect(map, x, y) {
  await answerTo("place", map, "api/pixel", { x, y }, showPlace);
}

async function judge() {
  if (viewer.chosen) await answerTo("verdict", viewer.chosen, "api/judge", { steps: Number(at("steps").value) || about.steps.usual }, showVerdict);
}

async function answerTo(kind, map, address, more, show) {
  const task = tasks.begin(kind);
  at(kind).classList.add("waiting");
  if (kind === "verdict") {
    show(map, null, "Judging …");
    at("stop").hidden = false;
  }
  try {
    const tell = (share) => { if (kind === "verdict" && share !== null && task.isCurrent()) show(map, null, `Judging … ${Math.round(100 * share)} %`); };
    const found = await withPhoto(() => compute(address, { map: current(map.question), ...more }, task.signal, tell), task.signal);
    if (tasks.done(kind, task)) show(map, found);
  } catch (error) {
    if (tasks.done(kind, task) && error.name !== "AbortError") show(map, null, error instanceof Refused ? error.message : String(error));
  }
  if (!tasks.has(kind)) at(kind).classList.remove("waiting");
  if (!tasks.has("maps") && !tasks.has("verdict")) at("stop").hidden = true;
}

function showPlace(map, found = null, words = "") {
  const box = at("place"), head = make("h2", { textContent: map ? `A place in ${nameOf(map)}` : "A place" });
  if (!map) {
    box.replaceChildren(head, make("p", { className: "hint", textContent: "Click a map to see the value there, and the channels behind it." }));
    return;
  }
  if (!found) {
    box.replaceChildren(head, make("p", { textContent: words }));
    return;
  }
  const cell = found.cell ? `, cell ${found.cell[0] + 1}, ${found.cell[1] + 1} of ${found.grid[0]}×${found.grid[1]}` : "";
  const raw = found.value === null ? "" : `; raw value ${Number(found.value.toPrecision(4))}`;
  const line = make("p", {}, make("b", { textContent: `${Math.round(100 * found.share)} %` }), ` of the map's maximum${cell}${raw}. ${found.note}`);
  box.replaceChildren(head, line);
  if (!found.channels.length) return;
  const peak = found.maximum || 1, share = (part) => `${part < 0 ? "−" : "+"}${Math.round(Math.abs(100 * part))} %`;
  box.append(make("p", { textContent: `The channels that add most here: activation × weight, as a share of the map's maximum. All channels together: ${share(found.total / peak)}.` }));
  box.append(make("div", { className: "channels" }, ...found.channels.map((each) => make("figure", {},
    make("img", { src: each.picture, alt: `Where channel ${each.number} is active` }),
    make("figcaption", {}, `channel ${each.number}`, make("br"), `${Number(each.activation.toPrecision(3))} × ${Number(each.weight.toPrecision(3))}`, make("br"),
      make("b", { textContent: share(each.adds / peak) }))))));
}

function showVerdict(map, found = null, words = "") {
  const box = at("verdict"), head = make("h2", { textContent: map ? `How far ${nameOf(map)} can be believed` : "A judgement" });
  if (!map) {
    box.replaceChildren(head, make("p", { className: "hint" }, make("i", { textContent: "Judge this map" }), " tells how far it can be believed."));
    return;
  }
  if (!found) {
    box.replaceChildren(head, make("p", { textContent: words }));
    return;
  }
  const rows = found.metrics.map((each) => make("tr", {},
    make("th", { scope: "row", textContent: each.name.replaceAll("_", " ") }),
    make("td", { textContent: `${Number(each.value.toPrecision(3))}${each.unit ? ` ${each.unit}` : ""}` }),
    make("td", { textContent: `${each.higher_is_better ? "higher" : "lower"} is better` })));
  const curves = found.metrics.filter((each) => each.curve.length).map((each) => [each.name, each.curve]);
  box.replaceChildren(head, make("table", {}, make("tbody", {}, ...rows)));
  if (curves.length) box.append(chart(curves, "share of the pixels", `Probability of ${map.label} while the photo is deleted and inserted`));
}

async function save(format) {
  const map = viewer.chosen;
  if (!map) return;
  const task = tasks.begin("save");
  say("save-message", "");
  try {
    const { opacity, threshold, colormap, boxes, hide } = viewer.look;
    const body = () => ({ map: current(map.question), format, opacity, threshold, colormap, boxes, hide });
    const file = await withPhoto(() => download("api/save", body(), task.signal), task.signal);
    if (!tasks.done("save", task)) return;
    const link = make("a", { href: URL.createObjectURL(file.content), download: file.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    if (tasks.done("save", task)) explainRefusal("save-message", error);
  }
}

// ------------------------------------------------------------------------------------------------------------- controls

function enable() {
  for (const id of ["classes", "methods-box", "layer-box"]) at(id).disabled = !state.photo;
}

const choice = (kind, name, checked, words, changed) => {
  const input = make("input", { type: kind, checked });
  input.addEventListener("change", () => changed(input.checked));
  return make("label", { className: "check" }, input, ...words);
};

function showClasses() {
  const likely = state.scores.map((each) => choice("checkbox", each.id, state.classes.includes(each.id), [
    ` ${short(each.label)} `, make("small", { textContent: each.is_probability ? percent(each.value) : Number(each.value.toPrecision(3)) }),
  ], (on) => chooseClass(each.id, on)));
  at("likeliest").replaceChildren(...likely);
  const known = new Set(state.scores.map((each) => each.id));
  at("named").replaceChildren(...state.classes.filter((id) => !known.has(id)).map((id) => choice("checkbox", id, true, [` ${short((state.labels.get(id) || { label: String(id) }).label)}`], (on) => chooseClass(id, on))));
}

function chooseClass(id, on) {
  state.classes = on ? [...state.classes, id] : state.classes.filter((each) => each !== id);
  ask();
}

// A class that is named in words is asked about as it stands; the server says which one it is, or that there is none.
async function nameClass(event) {
  event.preventDefault();
  const word = at("other").value.trim();
  if (!word || !state.photo) return;
  const before = state.classes;
  state.classes = [...before, word];
  await ask();
  if (state.classes.includes(word)) state.classes = before; // it was refused
  else at("other").value = "";
}

async function nameAgainst(event) {
  event.preventDefault();
  const word = at("against").value.trim();
  state.against = word ? { id: word } : null;
  await ask();
}

function showModel() {
  const { model } = state;
  const classes = model.classes ? `, ${model.classes} classes` : "";
  at("network-facts").textContent = `${about.models.length > 1 ? "" : `${model.name}: `}${model.layers.length} layers${classes}`;
  at("layer").max = model.layers.length - 1;
  at("layer").value = model.layers.findIndex((each) => each.name === state.layer);
  showLayer();
  showMethods();
  showOptions();
}

async function chooseModel() {
  tasks.end();
  state.model = about.models[at("model").selectedIndex];
  state.layer = state.model.layer;
  state.methods = state.methods.filter((name) => state.model.methods.includes(name));
  if (!state.methods.length) state.methods = [state.model.methods.includes("gradcam") ? "gradcam" : state.model.methods[0]];
  Object.assign(state, { classes: [], against: null, scores: [], answer: null });
  state.labels.clear();
  at("against").value = "";
  showModel();
  showNothing(state.photo ? "Explaining …" : EMPTY);
  working("");
  listLabels();
  await ask();
}

async function listLabels() {
  const task = tasks.begin("labels");
  const found = await get(`api/labels?model=${encodeURIComponent(state.model.name)}`).catch(() => ({ labels: [] }));
  if (tasks.done("labels", task)) at("labels").replaceChildren(...found.labels.map((label) => make("option", { value: label })));
}

function showLayer() {
  const place = state.model.layers[Number(at("layer").value)];
  at("layer-facts").textContent = `${place.name}: ${place.channels} channels of ${place.grid.join("×")}`;
  at("layer").setAttribute("aria-valuetext", place.name);
}

function showMethods() {
  at("methods").replaceChildren(...state.model.methods.map((name) => {
    const label = choice("checkbox", name, state.methods.includes(name), [make("span", {}, `${name} `, make("small", { textContent: about.methods[name].cost }))], (on) => chooseMethod(name, on));
    label.title = about.methods[name].summary;
    return label;
  }));
}

function chooseMethod(name, on) {
  const methods = on ? [...state.methods, name] : state.methods.filter((each) => each !== name);
  if (!methods.length) return showMethods(); // one there has to be
  state.methods = methods;
  showOptions();
  return ask();
}

function showOptions() {
  const fields = state.methods.map((method) => {
    const box = make("fieldset", {}, make("legend", { textContent: method }));
    const { options } = about.methods[method];
    if (!options.length) box.append(make("p", { className: "hint", textContent: "This method has none." }));
    for (const each of options) box.append(optionField(method, each));
    return box;
  });
  at("option-fields").replaceChildren(...fields);
}

function optionField(method, option) {
  const given = (state.options[method] || {})[option.name] ?? option.default;
  const widget = option.kind === "one of"
    ? make("select", {}, ...option.among.map((each) => make("option", { value: each, textContent: each, selected: each === String(given) })))
    : make("input", { type: { bool: "checkbox", int: "number", float: "number" }[option.kind] || "text", maxLength: 20 });
  if (option.kind === "bool") widget.checked = given;
  else if (option.kind !== "one of") widget.value = given;
  if (option.kind === "int" || option.kind === "float") Object.assign(widget, { min: option.low, max: option.high, step: option.kind === "int" ? 1 : "any" });
  widget.dataset.option = `${method}.${option.name}`;
  widget.addEventListener("change", () => {
    const value = option.kind === "bool" ? widget.checked : option.kind === "int" || option.kind === "float" ? widget.valueAsNumber : widget.value;
    state.options[method] = { ...state.options[method], [option.name]: Number.isNaN(value) ? option.default : value };
    ask();
  });
  const name = option.name.replaceAll("_", " ");
  const label = option.kind === "bool" ? make("label", { className: "check" }, widget, ` ${name}`) : make("label", {}, `${name} `, widget);
  label.title = option.meaning;
  return label;
}

function showRamp() {
  const table = viewer.tables[viewer.look.colormap], context = at("ramp").getContext("2d"), row = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) row.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  context.putImageData(row, 0, 0);
}

// ---------------------------------------------------------------------------------------------------------------- start

at("logout").hidden = !about.login;
at("model").replaceChildren(...about.models.map((each) => make("option", { textContent: each.name })));
at("network").classList.toggle("single", about.models.length < 2);
at("model").addEventListener("change", chooseModel);
at("colormap").replaceChildren(...Object.keys(about.colormaps).map((name) => make("option", { textContent: name })));
at("steps").max = about.steps.most;
at("steps").value = about.steps.usual;

at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  if (file) givePhoto(file, file.name);
  at("file").value = ""; // the same file may be given again
});
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    const [file] = event.dataTransfer.files;
    if (file) givePhoto(file, file.name);
    else say("photo-message", "Expected a file; addresses are not fetched: save the photo, then drop the file.");
  });
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  givePhoto(file, file.name || "pasted.png");
});

at("examples").hidden = !about.examples.length;
at("examples").replaceChildren(...about.examples.map((name) => {
  const button = make("button", { className: "example", title: name }, make("img", { src: `examples/${name}.jpg`, alt: name }));
  button.addEventListener("click", async () => {
    await takePhoto((signal) => post("api/examples", { example: name }, signal), null, name);
    if (state.photo && !state.photo.blob) {
      Object.assign(at("thumbnail"), { src: `examples/${name}.jpg`, hidden: false });
      state.photo.example = name;
    }
  });
  return button;
}));

at("name-class").addEventListener("submit", nameClass);
at("name-against").addEventListener("submit", nameAgainst);
at("layer").addEventListener("input", showLayer);
at("layer").addEventListener("change", () => {
  state.layer = state.model.layers[Number(at("layer").value)].name;
  ask();
});
for (const name of ["opacity", "threshold"])
  at(name).addEventListener("input", () => {
    at(name).previousElementSibling.value = Number(at(name).value).toFixed(2);
    viewer.set({ [name]: Number(at(name).value) });
  });
at("colormap").addEventListener("change", () => { viewer.set({ colormap: at("colormap").value }); showRamp(); });
for (const name of ["boxes", "hide"]) at(name).addEventListener("change", () => viewer.set({ [name]: at(name).checked }));
at("judge").addEventListener("click", judge);
for (const button of document.querySelectorAll("button.save")) button.addEventListener("click", () => save(button.dataset.format));
at("stop").addEventListener("click", stop);
addEventListener("pagehide", () => {
  if (state.photo) navigator.sendBeacon("api/forget", new Blob([JSON.stringify({ photo: state.photo.id })], { type: "application/json" }));
});

viewer.clear(EMPTY);
showModel();
showRamp();
enable();
listLabels();
document.documentElement.dataset.ready = "yes";
