// The page: what is chosen, what is asked, and what is shown.
//
// Everything that is shown belongs to the answer it came with: each map carries its own question, and a click, a judgement and a download
// send that one, whatever the controls say by then. Whatever is asked anew ends what was asked before; late answers are dropped.

import { Refused, Tasks, compute, download, get, post, upload } from "./api.js";
import { chart } from "./charts.js";
import { Viewer, methodOf, tablesOf } from "./viewer.js";

const at = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const short = (label) => label.split(",")[0];

const EMPTY = "Give a photo, or take one of the examples.";

const about = await get("api/about").catch((error) => { warn("message", error.message); throw error; });
for (const model of about.models) model.labels = []; // by id, once they have come
const usualMethod = ({ methods }) => (methods.includes("gradcam") ? "gradcam" : methods[0]);

const tasks = new Tasks();
const state = {
  photo: null, // what the server has accepted last: { id, name, width, height, give }; `give` gives it once more
  model: about.models[0],
  layer: about.models[0].layer,
  methods: [usualMethod(about.models[0])],
  options: {}, // of each method, those that were changed
  classes: [], // ids that are chosen
  against: null, // the id of the class rather than which they are
  named: "", // another class in words, until the server has told which it is
  namedAgainst: null, // likewise; "" for none
  scores: [], // the likeliest classes of the photo
  isAnswered: true, // whether what was asked last is shown
};

const viewer = new Viewer(at("stage"), tablesOf(about.colormaps), { inspect, choose: chosenChanged });

// ------------------------------------------------------------------------------------------------------------- messages

function say(id, words) {
  at(id).textContent = words;
}

// Say what was refused; no words take it back.
function warn(id, words) {
  say(id, words);
  at(id).hidden = !words;
}

function reason(error) {
  if (error instanceof Refused) return error.message;
  console.error(error);
  return `The page itself has a fault: ${error.message}`;
}

function working(words) {
  say("status", words);
  at("progress").hidden = !words;
  at("progress").removeAttribute("value");
  at("stage").classList.toggle("waiting", Boolean(words));
  offer();
}

// The buttons that end what runs, and ask again what was not answered.
function offer() {
  at("stop").hidden = !tasks.has("maps") && !tasks.has("verdict");
  at("again").hidden = state.isAnswered || tasks.has("maps");
}

// --------------------------------------------------------------------------------------------------------------- photos

function giveFile(file, name) {
  const size = file.size / 1e6, most = about.limits.megabytes;
  if (size > most) {
    warn("photo-message", `Expected a file of at most ${most} MB; ${name} has ${size.toFixed(1)} MB.`);
    return;
  }
  // Read once: what is uploaded again later is what was given, whatever has become of the file.
  const unreadable = () => { throw new Refused({ type: "Unreadable", message: `Expected a file; ${name} cannot be read: is it a folder?` }); };
  const content = file.arrayBuffer().then((buffer) => new Blob([buffer]), unreadable);
  takePhoto(name, async (signal) => upload(await content, name, signal), async () => URL.createObjectURL(await content));
}

const giveExample = (name) => takePhoto(name, (signal) => post("api/examples", { example: name }, signal), () => `examples/${name}.jpg`);

// `give` gives the server a photo; until it has accepted it, the old one stays. `picture` is the address of one to show.
async function takePhoto(name, give, picture) {
  const task = tasks.begin("photo");
  warn("photo-message", "");
  say("photo-facts", `Uploading ${name} …`);
  try {
    const accepted = await give(task.signal), shown = await picture();
    if (!tasks.done("photo", task)) {
      URL.revokeObjectURL(shown);
      forget(accepted.photo);
      return;
    }
    if (state.photo) forget(state.photo.id);
    tasks.end();
    state.photo = { ...accepted, id: accepted.photo, give };
    forgetClasses();
    URL.revokeObjectURL(at("thumbnail").src);
    Object.assign(at("thumbnail"), { src: shown, hidden: false });
    at("drop-words").textContent = "Another photo: drop, paste or choose";
    at("classes").disabled = false;
    showPhoto();
    showNothing("");
    ask();
  } catch (error) {
    if (!tasks.done("photo", task)) return;
    showPhoto();
    warn("photo-message", reason(error));
  }
}

function showPhoto() {
  say("photo-facts", state.photo ? `${state.photo.name}, ${state.photo.width}×${state.photo.height}` : "");
}

const forget = (photo) => post("api/forget", { photo }).catch(() => {});

// Ask something about the photo; where the server has let it go meanwhile, it is given once more first.
async function withPhoto(action) {
  const { photo } = state, { id } = photo;
  try {
    return await action(id);
  } catch (error) {
    if (error.type !== "PhotoGone" || state.photo !== photo) throw error;
    if (photo.id === id) await (photo.again ||= giveAgain(photo));
    return action(photo.id);
  }
}

async function giveAgain(photo) {
  try {
    photo.id = (await photo.give()).photo;
  } finally {
    photo.again = null;
  }
  if (state.photo !== photo) forget(photo.id);
}

// ----------------------------------------------------------------------------------------------------------------- maps

const question = (photo) => ({
  photo,
  model: state.model.name,
  layer: state.layer,
  methods: state.methods,
  options: Object.fromEntries(state.methods.map((name) => [name, state.options[name] || {}])),
  classes: state.named ? [...state.classes, state.named] : state.classes,
  against: state.namedAgainst ?? state.against,
});

async function ask() {
  if (!state.photo) return;
  const task = tasks.begin("maps"), wasAnswered = state.isAnswered;
  state.isAnswered = false;
  for (const id of ["message", "class-message", "photo-message"]) warn(id, "");
  working("Explaining …");
  try {
    const tell = (share) => { if (share !== null && task.isCurrent()) at("progress").value = share; };
    const answer = await withPhoto((photo) => compute("api/explain", question(photo), task.signal, tell)), pixels = await viewer.pixels(answer);
    if (!tasks.done("maps", task)) return;
    tasks.end("place", "verdict");
    viewer.show(answer, pixels);
    if (at("other").value.trim() === state.named) at("other").value = "";
    Object.assign(state, { scores: answer.scores, classes: answer.question.classes, against: answer.question.against, isAnswered: true });
    at("style").hidden = at("do").hidden = false;
    warn("save-message", "");
    showPlace(null);
    showVerdict(null);
    showClasses();
  } catch (error) {
    if (!tasks.done("maps", task)) return;
    const isNaming = Boolean(state.named || state.namedAgainst);
    if (isNaming) state.isAnswered = wasAnswered;
    warn(isNaming ? "class-message" : "message", reason(error));
    if (!viewer.chosen) viewer.clear("There is no map.");
  }
  dropWords();
  working("");
}

// Words that are no class, or were not waited for, are not asked about again; they stay in their fields.
function dropWords() {
  Object.assign(state, { named: "", namedAgainst: null });
}

function stop() {
  tasks.end("maps", "place", "verdict");
  dropWords();
  working("");
  say("status", "Stopped.");
  if (!viewer.chosen) viewer.clear("There is no map.");
}

function showNothing(words) {
  viewer.clear(words);
  at("style").hidden = at("do").hidden = true;
  for (const id of ["message", "class-message", "save-message"]) warn(id, "");
  showPlace(null);
  showVerdict(null);
  showClasses();
}

const nameOf = (map) => `${map.label} by ${methodOf(map)}`;

function chosenChanged(map) {
  at("chosen").textContent = `Chosen: ${nameOf(map)}, ${map.layer}`;
}

// ------------------------------------------------------------------------------------------------- answers about a map

function inspect(map, x, y) {
  answerTo("place", map, "api/pixel", { x, y }, "Looking …", showPlace);
}

function judge() {
  const steps = at("steps").valueAsNumber;
  answerTo("verdict", viewer.chosen, "api/judge", { steps: Number.isNaN(steps) ? about.steps.usual : steps }, "Judging …", showVerdict);
}

async function answerTo(kind, map, address, more, words, show) {
  const task = tasks.begin(kind), box = at(kind), share = make("progress", { max: 1, ariaLabel: "How far the computation is" });
  box.style.minHeight = `${box.offsetHeight}px`; // so that nothing moves meanwhile
  show(map, null, words);
  box.append(share);
  if (!tasks.has("maps")) say("status", "");
  offer();
  let found = null, refused = "";
  try {
    const tell = (told) => { if (told !== null) share.value = told; };
    found = await withPhoto((photo) => compute(address, { map: { ...map.question, photo }, ...more }, task.signal, tell));
  } catch (error) {
    if (task.isCurrent()) refused = reason(error);
    if (error.type === "WeightsChanged") state.isAnswered = false; // what is shown is of weights that are gone: asking again is offered
  }
  if (tasks.done(kind, task)) show(map, found, refused);
  else if (!tasks.has(kind)) show(null);
  if (!tasks.has(kind)) box.style.minHeight = "";
  offer();
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
  box.append(make("p", { textContent: "The channels that add most here: activation × weight, as a share of the map's maximum. "
    + `All channels together, in this cell: ${share(found.total / peak)}.` }));
  box.append(make("div", { className: "channels" }, ...found.channels.map((each) => make("figure", {},
    make("img", { src: each.picture, alt: `Where channel ${each.number} is active` }),
    make("figcaption", {}, `channel ${each.number}`, make("br"),
      `${Number(each.activation.toPrecision(3))} × ${Number(each.weight.toPrecision(3))}`, make("br"), make("b", { textContent: share(each.adds / peak) }))))));
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
  const kind = Symbol("save"), task = tasks.begin(kind); // any number at a time
  warn("save-message", "");
  try {
    const { question: map } = viewer.chosen, look = { ...viewer.look };
    const file = await withPhoto((photo) => download("api/save", { map: { ...map, photo }, format, ...look }, task.signal));
    if (!tasks.done(kind, task)) return;
    const link = make("a", { href: URL.createObjectURL(file.content), download: file.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    if (tasks.done(kind, task)) warn("save-message", reason(error));
    if (error.type === "WeightsChanged") state.isAnswered = false;
    offer();
  }
}

// ------------------------------------------------------------------------------------------------------------- controls

const choice = (value, checked, words, changed) => {
  const input = make("input", { type: "checkbox", value, checked });
  input.addEventListener("change", () => changed(input));
  return make("label", { className: "check" }, input, ...words);
};

const classChoice = (id, words) => choice(id, state.classes.includes(id), words, ({ checked }) => {
  state.classes = checked ? [...state.classes, id] : state.classes.filter((each) => each !== id);
  ask();
});

function showClasses() {
  const { type, value } = document.activeElement, wasFocused = type === "checkbox" && at("classes").contains(document.activeElement);
  const known = new Set(state.scores.map((each) => each.id));
  at("likeliest").replaceChildren(...state.scores.map((each) => classChoice(each.id, [
    ` ${short(each.label)} `, make("small", { textContent: each.is_probability ? percent(each.value) : Number(each.value.toPrecision(3)) }),
  ])));
  const others = state.classes.filter((id) => !known.has(id));
  at("named").replaceChildren(...others.map((id) => classChoice(id, [` ${short(state.model.labels[id] ?? String(id))}`])));
  if (wasFocused) at("classes").querySelector(`input[value="${value}"]`)?.focus();
}

function nameClass(event) {
  event.preventDefault();
  state.named = at("other").value.trim();
  if (state.named) ask();
}

function nameAgainst(event) {
  event.preventDefault();
  state.namedAgainst = at("against").value.trim();
  ask();
}

function forgetClasses() {
  Object.assign(state, { classes: [], against: null, scores: [] });
  dropWords();
  at("against").value = "";
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

function chooseModel() {
  tasks.end("maps", "place", "verdict");
  state.model = about.models[at("model").selectedIndex];
  state.layer = state.model.layer;
  state.methods = state.methods.filter((name) => state.model.methods.includes(name));
  if (!state.methods.length) state.methods = [usualMethod(state.model)];
  forgetClasses();
  showModel();
  working("");
  showNothing(state.photo ? "" : EMPTY);
  listLabels(state.model);
  ask();
}

async function listLabels(model) {
  if (!model.labels.length) model.labels = (await get(`api/labels?model=${encodeURIComponent(model.name)}`).catch(() => ({ labels: [] }))).labels;
  if (model !== state.model) return;
  at("labels").replaceChildren(...model.labels.map((label) => make("option", { value: label })));
  showClasses();
}

function showLayer() {
  const place = state.model.layers[Number(at("layer").value)];
  at("layer-facts").textContent = `${place.name}: ${place.channels} channels of ${place.grid.join("×")}`;
  at("layer").setAttribute("aria-valuetext", place.name);
}

function showMethods() {
  at("methods").replaceChildren(...state.model.methods.map((name) => {
    const words = make("span", {}, ...breakable(name), " ", make("small", { textContent: about.methods[name].cost }));
    const label = choice(name, state.methods.includes(name), [words], (input) => chooseMethod(name, input));
    label.title = about.methods[name].summary;
    return label;
  }));
  showChosenMethods();
}

// A name whose lines may be broken at its low lines.
const breakable = (name) => name.split("_").flatMap((part, i) => (i ? ["_", make("wbr"), part] : [part]));

function showChosenMethods() {
  at("methods-chosen").textContent = state.methods.join(", ");
}

function chooseMethod(name, input) {
  const methods = input.checked ? [...state.methods, name] : state.methods.filter((each) => each !== name);
  if (!methods.length) {
    input.checked = true; // one there has to be
    return;
  }
  state.methods = methods;
  showChosenMethods();
  showOptions();
  ask();
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
    if (Number.isNaN(value)) widget.value = option.default;
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

function giveChosen() {
  const [file] = at("file").files;
  if (file) giveFile(file, file.name);
  at("file").value = ""; // the same file may be given again
}
at("file").addEventListener("change", giveChosen);
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    const [file] = event.dataTransfer.files;
    if (file) giveFile(file, file.name);
    else warn("photo-message", "Expected a file; addresses are not fetched: save the photo, then drop the file.");
  });
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  giveFile(file, file.name);
});

at("examples").hidden = !about.examples.length;
at("examples").replaceChildren(...about.examples.map((name) => {
  const button = make("button", { className: "example", title: name }, make("img", { src: `examples/${name}.jpg`, alt: name }));
  button.addEventListener("click", () => giveExample(name));
  return button;
}));

at("classes").addEventListener("input", () => warn("class-message", "")); // what was refused is being changed
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
at("thumbnail").addEventListener("error", () => { at("thumbnail").hidden = true; }); // browsers do not show TIFF
at("stop").addEventListener("click", stop);
at("again").addEventListener("click", ask);
addEventListener("pagehide", () => {
  if (state.photo) navigator.sendBeacon("api/forget", new Blob([JSON.stringify({ photo: state.photo.id })], { type: "application/json" }));
});

viewer.clear(EMPTY);
showModel();
showRamp();
listLabels(state.model);
giveChosen(); // what was chosen before this script was there
document.documentElement.dataset.ready = "yes";
