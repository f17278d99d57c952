"use strict";
// All of this is convenience: the page is whole without it.
for (const event of ["beforeprint", "afterprint"]) {
  addEventListener(event, () => {
    for (const each of document.querySelectorAll("details:not(.aside)")) {
      if (event === "beforeprint" && !each.open) { each.open = true; each.dataset.closed = ""; }
      else if (event === "afterprint" && "closed" in each.dataset) { each.open = false; delete each.dataset.closed; }
    }
  });
}
const made = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

const value = (row, i) => {
  const text = row.cells[i].firstChild ? row.cells[i].firstChild.textContent.replaceAll("−", "-").replace(/[\u202f%<>≥≤]/g, "").trim() : "";
  return text !== "" && isFinite(text) ? Number(text) : text;
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : typeof a === typeof b ? String(a).localeCompare(b) : typeof a === "number" ? -1 : 1);
for (const table of document.querySelectorAll("table.data")) {
  if (table.tBodies[0].rows.length < 3) continue;
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    const [name, ...small] = head.childNodes, arrow = made("span", { className: "arrow" });
    arrow.setAttribute("aria-hidden", "true");
    button.append(name, arrow, ...small);
    head.append(button);
    button.title = "Sort by this column";
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) {
        other.removeAttribute("aria-sort");
        if (other.querySelector("button")) other.querySelector("button").title = "Sort by this column";
      }
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      button.title = down ? "Sorted from high to low, or Z to A" : "Sorted from low to high, or A to Z";
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * compare(value(a, i), value(b, i)));
      table.tBodies[0].append(...rows);
    });
  });
}
// A filter for each section with several images or problems. All words must be found, in any order; case and accents do not matter.
const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
const clearers = [];
const addFilter = (section) => {
  const items = [...section.querySelectorAll("ul.gallery > li, table.filtered > tbody > tr")];
  if (items.length < 4) return;
  const texts = items.map((item) => folded([item.querySelector("figcaption") || item].map((part) => part.textContent).concat(item.dataset.words || "").join("\n")));
  const holders = [...section.querySelectorAll("section, details, ul.gallery, p.caption, .scroll")].map((holder) => {
    const own = holder.matches("p.caption") ? holder.nextElementSibling : holder;
    return [holder, items.filter((item) => own && own.contains(item))];
  }).filter(([, inside]) => inside.length);
  const input = made("input", { type: "search", id: `filter-${clearers.length + 1}`, autocomplete: "off", spellcheck: false });
  const clear = made("button", { type: "button", textContent: "Show all", hidden: true });
  const told = made("span", { className: "note" });
  told.setAttribute("role", "status");
  const opened = new Set();
  const update = () => {
    const words = folded(input.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, i) => {
      item.hidden = !words.every((word) => texts[i].includes(word));
      shown += !item.hidden;
    });
    for (const [holder, inside] of holders) {
      const some = inside.some((item) => !item.hidden);
      holder.hidden = !some;
      if (holder.tagName !== "DETAILS") continue;
      if (words.length && some && !holder.open) { holder.open = true; opened.add(holder); }
      else if (!words.length && opened.delete(holder)) holder.open = false;
    }
    clear.hidden = !words.length;
    told.textContent = !words.length ? "" : shown ? `${shown} of ${items.length} shown` : `Nothing matches: 0 of ${items.length} shown`;
  };
  input.addEventListener("input", update);
  const reset = () => { if (input.value) { input.value = ""; update(); } };
  input.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.preventDefault(); reset(); } });
  clear.addEventListener("click", () => { reset(); input.focus(); });
  clearers.push([section, reset]);
  let first = [...section.children].find((child) => child.contains(items[0]));
  if (first.previousElementSibling.matches("p.caption")) first = first.previousElementSibling;
  first.before(made("div", { className: "filter" }, made("label", { htmlFor: input.id }, "Filter by name, class, method or problem"), input, clear, told));
};
document.querySelectorAll("main > section").forEach(addFilter);

const reveal = () => {
  const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!found) return;
  if (found.closest("[hidden]")) for (const [section, reset] of clearers) if (section.contains(found)) reset();
  for (let each = found.closest("details"); each; each = each.parentElement.closest("details")) each.open = true;
  if (found.closest("details")) found.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();

// Pictures are enlarged in a dialog, one after the other.
const pictures = [...document.querySelectorAll("img.enlarged")];
if (pictures.length) {
  const large = made("img", { alt: "" }), words = made("p", { id: "viewer-caption" }), place = made("span", { className: "note" });
  const step = (text, by) => {
    const button = made("button", { type: "button", textContent: text });
    button.addEventListener("click", () => go(by));
    return button;
  };
  const close = made("button", { type: "button", textContent: "Close" });
  const viewer = made("dialog", { className: "viewer" }, large, words, made("div", {}, step("Previous", -1), place, step("Next", 1), close));
  viewer.setAttribute("aria-labelledby", words.id);
  place.setAttribute("role", "status");
  let current = null;
  const shown = () => pictures.filter((picture) => picture.getClientRects().length);
  const show = (picture) => {
    const all = shown();
    current = picture;
    large.src = picture.src;
    large.alt = words.textContent = picture.alt;
    place.textContent = `${all.indexOf(picture) + 1} of ${all.length}`;
  };
  const go = (by) => {
    const all = shown();
    show(all[(all.indexOf(current) + by + all.length) % all.length]);
  };
  for (const picture of pictures) {
    const button = made("button", { type: "button", className: "enlarge", title: "Enlarge" });
    button.setAttribute("aria-haspopup", "dialog");
    picture.replaceWith(button);
    button.append(picture);
    button.addEventListener("click", () => { show(picture); document.body.append(viewer); viewer.showModal(); close.focus(); });
  }
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) { event.preventDefault(); go(by); }
  });
  large.addEventListener("click", () => viewer.close());
  close.addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => { viewer.remove(); current.parentElement.focus(); });
}
