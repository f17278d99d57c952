// Draws the photo with its maps. Opacity, threshold, colours and boxes are changed here, without asking the server:
// a map comes as a grey picture (its share of the maximum in 256 levels), and is coloured by a table of 256 colours.
// `element`, `props`, `watch` and `trigger` are given by the component; tables of colours are in props.palettes.

const look = { opacity: 0.5, threshold: 0.2, colormap: "turbo", boxes: true, hide: false };
const stage = element.querySelector(".lucid-stage");
let shown = null; // what was drawn last: the photo, and each cell's canvas and levels
let latest = 0;

const tables = Object.fromEntries(Object.entries(props.palettes).map(([name, digits]) => {
  const table = new Uint8Array(768);
  for (let i = 0; i < 768; i++) table[i] = parseInt(digits.substr(2 * i, 2), 16);
  return [name, table];
}));

const picture = (address) => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = failed;
  image.src = address;
});

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

function paint(cell) {
  const { width, height, photo, box } = shown, table = tables[look.colormap] || tables.turbo;
  const context = cell.canvas.getContext("2d"), pixels = shown.sheet, data = pixels.data, levels = cell.levels;
  data.set(photo.data);
  const keep = 1 - look.opacity;
  for (let y = Math.max(0, box[1]); y < Math.min(height, box[3]); y++)
    for (let i = y * width + Math.max(0, box[0]), end = y * width + Math.min(width, box[2]); i < end; i++) {
      const level = levels[i];
      if (look.hide && (level === 0 || level / 255 < look.threshold)) continue;
      const p = 4 * i, c = 3 * level;
      data[p] = data[p] * keep + table[c] * look.opacity;
      data[p + 1] = data[p + 1] * keep + table[c + 1] * look.opacity;
      data[p + 2] = data[p + 2] * keep + table[c + 2] * look.opacity;
    }
  context.putImageData(pixels, 0, 0);
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

function repaint() {
  if (!shown) return;
  shown.cells.forEach(paint);
  stage.dataset.painted = String(Number(stage.dataset.painted || 0) + 1);
}

function choose(number) {
  shown.chosen = number;
  shown.cells.forEach((cell, i) => cell.figure.classList.toggle("chosen", shown.cells.length > 1 && i === number));
}

async function show(value) {
  const mine = ++latest;
  if (!value || !value.cells) {
    shown = null;
    stage.replaceChildren();
    stage.innerHTML = '<p class="lucid-empty">Give a photo, or take one of the examples.</p>';
    return;
  }
  const { width, height } = value;
  const images = await Promise.all([picture(value.photo), ...value.cells.map((cell) => picture(cell.map))]);
  if (mine !== latest) return; // a later answer is on its way already
  const sheet = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  const pixelsOf = (image) => { sheet.drawImage(image, 0, 0); return sheet.getImageData(0, 0, width, height); };
  const photo = pixelsOf(images[0]);
  const before = shown && shown.chosen;
  shown = { width, height, photo, sheet: new ImageData(width, height), box: value.box, chosen: 0 };
  stage.replaceChildren();
  stage.style.setProperty("--columns", value.columns);
  stage.style.setProperty("--ratio", width / height);
  shown.cells = value.cells.map((told, number) => {
    const grey = pixelsOf(images[number + 1]).data, levels = new Uint8Array(width * height);
    for (let i = 0; i < levels.length; i++) levels[i] = grey[4 * i];
    const figure = document.createElement("figure"), canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
    canvas.width = width;
    canvas.height = height;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    const share = told.probability === null ? "" : ` ${(100 * told.probability).toFixed(1)} %`;
    const name = document.createElement("b");
    name.textContent = told.label;
    caption.append(name, `${share} · ${told.method} · ${told.layer} (${told.grid.join("×")})${told.note ? `: ${told.note}` : ""}`);
    canvas.setAttribute("aria-label", `Where the network looks for ${caption.textContent}`);
    canvas.dataset.method = told.method;
    canvas.dataset.label = told.label;
    canvas.dataset.layer = told.layer;
    figure.append(canvas, caption);
    stage.append(figure);
    const cell = { canvas, levels, figure, spot: null, boxes: [] };
    canvas.addEventListener("click", (event) => {
      const frame = canvas.getBoundingClientRect();
      const x = Math.min(width - 1, Math.floor((event.clientX - frame.left) * width / frame.width));
      const y = Math.min(height - 1, Math.floor((event.clientY - frame.top) * height / frame.height));
      shown.cells.forEach((other) => { other.spot = null; });
      cell.spot = [x + 0.5, y + 0.5];
      choose(number);
      repaint();
      window.lucidcam.spot = [number, (x + 0.5) / width, (y + 0.5) / height];
      trigger("click", { map: number, x, y });
    });
    return cell;
  });
  choose(Math.min(before || 0, shown.cells.length - 1));
  repaint();
  stage.dataset.shown = String(Number(stage.dataset.shown || 0) + 1);
}

window.lucidcam = {
  spot: [0, 0.5, 0.5],
  set(changes) { Object.assign(look, changes); requestAnimationFrame(repaint); },
  chosen: () => (shown ? shown.chosen : 0),
  judged() {
    document.getElementById("lucid-verdict").scrollIntoView({ behavior: "smooth", block: "nearest" });
    return this.chosen();
  },
  save(file) {
    if (!file) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name || "";
    link.click();
  },
};

watch("value", () => show(props.value));
show(props.value);
