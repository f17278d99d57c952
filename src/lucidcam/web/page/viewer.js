// Draws the photo with its maps. Opacity, threshold, colours and boxes are changed here, without asking the server:
// a map comes as a grey picture (its share of the maximum in 256 levels), and is coloured by a table of 256 colours.

const pictureAt = (address) => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => failed(new Error("a picture of the answer cannot be shown"));
  image.src = address;
});

export const tablesOf = (palettes) => Object.fromEntries(Object.entries(palettes).map(([name, digits]) => {
  const table = new Uint8Array(768);
  for (let i = 0; i < 768; i++) table[i] = parseInt(digits.substr(2 * i, 2), 16);
  return [name, table];
}));

// 8-connected regions at or above a level, largest first, as the server finds them: xyxy, right and bottom exclusive.
function boxesOf(levels, width, height, threshold) {
  const inside = new Uint8Array(levels.length), stack = new Int32Array(levels.length), found = [];
  for (let i = 0; i < levels.length; i++) inside[i] = levels[i] > 0 && levels[i] / 255 >= threshold ? 1 : 0;
  for (let start = 0; start < inside.length; start++) {
    if (!inside[start]) continue;
    let size = 0, area = 0, left = width, top = height, right = 0, bottom = 0;
    stack[size++] = start;
    inside[start] = 0;
    while (size) {
      const at = stack[--size], x = at % width, y = (at - x) / width;
      area++;
      if (x < left) left = x;
      if (x + 1 > right) right = x + 1;
      if (y < top) top = y;
      if (y + 1 > bottom) bottom = y + 1;
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++)
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const next = v * width + u;
          if (inside[next]) { inside[next] = 0; stack[size++] = next; }
        }
    }
    found.push({ box: [left, top, right, bottom], area, start });
  }
  return found.sort((a, b) => b.area - a.area || a.start - b.start).map((one) => one.box);
}

// A method with the options that were set, which may turn its meaning round (counterfactual).
export const methodOf = (map) => {
  const set = Object.entries(map.question.options[map.method] || {}).map(([name, value]) => `${name.replaceAll("_", " ")} ${value === true ? "on" : value === false ? "off" : value}`);
  return set.length ? `${map.method} (${set.join(", ")})` : map.method;
};

const caption = (map) => {
  const share = map.probability === null ? "" : ` ${(100 * map.probability).toFixed(1)} %`;
  return `${share} · ${methodOf(map)} · ${map.layer} (${map.grid.join("×")})${map.note ? `: ${map.note}` : ""}`;
};

const STEP = 0.025; // share of the width that an arrow key moves the spot by

export class Viewer {
  // `inspect(map, x, y)` is called with the place in shares of the photo's size, `choose(number)` when another map is chosen.
  constructor(stage, tables, { inspect, choose }) {
    Object.assign(this, { stage, tables, inspect, chosenChanged: choose });
    this.look = { opacity: 0.5, threshold: 0.2, colormap: "turbo", boxes: true, hide: false };
    this.shown = null;
    this.due = 0; // the frame that the maps are painted anew with
  }

  clear(words) {
    this.shown = null;
    const note = document.createElement("p");
    note.className = "empty";
    note.textContent = words;
    this.stage.replaceChildren(note);
  }

  set(changes) {
    Object.assign(this.look, changes);
    this.due ||= requestAnimationFrame(() => { this.due = 0; this.repaint(); });
  }

  get chosen() {
    return this.shown ? this.shown.cells[this.shown.chosen].map : null;
  }

  // The pixels of an answer's pictures: the photo's, then those of each map.
  async pixels({ width, height, picture, maps }) {
    const images = await Promise.all([picture, ...maps.map((map) => map.levels)].map(pictureAt));
    const sheet = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    return images.map((image) => { sheet.drawImage(image, 0, 0); return sheet.getImageData(0, 0, width, height).data; });
  }

  // Show an answer with its pixels in the place of whatever is shown.
  show({ width, height, box, columns, maps }, [photo, ...greys]) {
    const before = this.shown ? this.shown.chosen : 0, focused = this.stage.contains(document.activeElement);
    this.stage.replaceChildren();
    this.stage.style.setProperty("--columns", Math.min(4, columns > 1 ? columns : Math.min(maps.length, 3)));
    this.stage.style.setProperty("--ratio", width / height);
    this.shown = { width, height, photo, box, sheet: new ImageData(width, height), chosen: 0, cells: [] };
    this.shown.cells = maps.map((map, number) => this.cell(map, number, greys[number]));
    this.choose(Math.min(before, maps.length - 1));
    this.repaint();
    if (focused) this.shown.cells[this.shown.chosen].canvas.focus();
    this.stage.dataset.shown = String(Number(this.stage.dataset.shown || 0) + 1);
  }

  cell(map, number, grey) {
    const { width, height } = this.shown, levels = new Uint8Array(width * height);
    for (let i = 0; i < levels.length; i++) levels[i] = grey[4 * i];
    const figure = document.createElement("figure"), canvas = document.createElement("canvas"), words = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = map.label;
    words.append(name, caption(map));
    Object.assign(canvas, { width, height, tabIndex: 0 });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Where the network looks for ${words.textContent}. Arrow keys move over it, Enter asks about the place.`);
    Object.assign(canvas.dataset, { method: map.method, label: map.label, layer: map.layer });
    figure.append(canvas, words);
    this.stage.append(figure);
    const cell = { map, canvas, levels, figure, spot: null, boxes: [] };
    canvas.addEventListener("click", (event) => {
      const frame = canvas.getBoundingClientRect();
      this.mark(number, (event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height);
      this.ask(cell);
    });
    canvas.addEventListener("keydown", (event) => {
      const [x, y] = cell.spot ? [cell.spot[0] / width, cell.spot[1] / height] : [0.5, 0.5];
      const move = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
      if (move) this.mark(number, x + move[0], y + move[1]);
      else if (event.key === "Enter" || event.key === " ") { this.mark(number, x, y); this.ask(cell); } else return;
      event.preventDefault();
    });
    return cell;
  }

  mark(number, x, y) {
    const { width, height, cells } = this.shown;
    for (const other of cells) other.spot = null;
    const inside = (share, length) => Math.min(length - 1, Math.max(0, Math.floor(share * length))) + 0.5;
    cells[number].spot = [inside(x, width), inside(y, height)];
    this.choose(number);
    this.repaint();
  }

  ask(cell) {
    this.inspect(cell.map, cell.spot[0] / this.shown.width, cell.spot[1] / this.shown.height);
  }

  choose(number) {
    const { cells } = this.shown;
    this.shown.chosen = number;
    cells.forEach((cell, i) => cell.figure.classList.toggle("chosen", cells.length > 1 && i === number));
    this.chosenChanged(cells[number].map);
  }

  repaint() {
    if (!this.shown) return;
    for (const cell of this.shown.cells) this.paint(cell);
    this.stage.dataset.painted = String(Number(this.stage.dataset.painted || 0) + 1);
  }

  paint(cell) {
    const { width, height, photo, box, sheet } = this.shown, look = this.look, table = this.tables[look.colormap], levels = cell.levels;
    const context = cell.canvas.getContext("2d"), data = sheet.data, keep = 1 - look.opacity;
    data.set(photo);
    for (let y = Math.max(0, box[1]); y < Math.min(height, box[3]); y++)
      for (let i = y * width + Math.max(0, box[0]), end = y * width + Math.min(width, box[2]); i < end; i++) {
        const level = levels[i];
        if (look.hide && (level === 0 || level / 255 < look.threshold)) continue;
        const p = 4 * i, c = 3 * level;
        data[p] = data[p] * keep + table[c] * look.opacity;
        data[p + 1] = data[p + 1] * keep + table[c + 1] * look.opacity;
        data[p + 2] = data[p + 2] * keep + table[c + 2] * look.opacity;
      }
    context.putImageData(sheet, 0, 0);
    if (cell.at !== look.threshold) {
      cell.boxes = boxesOf(levels, width, height, look.threshold);
      cell.at = look.threshold;
    }
    context.strokeStyle = "rgb(255, 64, 64)";
    (look.boxes ? cell.boxes : []).forEach(([left, top, right, bottom], i) => {
      const line = Math.max(2, Math.round(Math.min(width, height) / 150)) / (i ? 2 : 1);
      context.lineWidth = line;
      context.strokeRect(left + line / 2, top + line / 2, right - left - line, bottom - top - line);
    });
    if (cell.spot) {
      const [x, y] = cell.spot, r = Math.max(6, width / 80);
      for (const [style, wide] of [["rgba(0, 0, 0, 0.7)", 4], ["white", 2]]) {
        context.strokeStyle = style;
        context.lineWidth = wide;
        context.beginPath();
        context.arc(x, y, r, 0, 2 * Math.PI);
        context.stroke();
      }
    }
    cell.canvas.dataset.boxes = JSON.stringify(look.boxes ? cell.boxes : []);
  }
}
