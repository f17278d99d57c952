// Curves from 0 to 1 over a share from 0 to 1, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320, HEIGHT = 200, LEFT = 34, RIGHT = 8, TOP = 8, BOTTOM = 34;

const make = (name, attributes, words = "") => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = words;
  return element;
};

// `curves`: name and values, evenly spread over the share.
export function chart(curves, across, title) {
  const x = (share) => LEFT + (WIDTH - LEFT - RIGHT) * share, y = (share) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * Math.min(1, Math.max(0, share));
  const sheet = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "chart" });
  sheet.append(make("title", {}, title));
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    sheet.append(make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick), class: "grid" }));
    sheet.append(make("text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    sheet.append(make("text", { x: x(tick), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, String(tick)));
  }
  sheet.append(make("text", { x: x(0.5), y: HEIGHT - 4, "text-anchor": "middle" }, across));
  curves.forEach(([name, values], i) => {
    const last = Math.max(1, values.length - 1);
    const points = values.map((value, k) => `${x(k / last).toFixed(1)},${y(value).toFixed(1)}`);
    sheet.append(make("polygon", { points: [`${x(0)},${y(0)}`, ...points, `${x(1)},${y(0)}`].join(" "), class: `area curve-${i}` }));
    sheet.append(make("polyline", { points: points.join(" "), class: `curve curve-${i}` }));
    sheet.append(make("text", { x: WIDTH - RIGHT, y: TOP + 10 + 15 * i, "text-anchor": "end", class: `name curve-${i}` }, name));
  });
  return sheet;
}
