"use strict";
// All of this is convenience: the page is whole without it.
for (const event of ["beforeprint", "afterprint"]) {
  addEventListener(event, () => {
    for (const each of document.querySelectorAll("details")) {
      if (event === "beforeprint" && !each.open) { each.open = true; each.dataset.closed = ""; }
      else if (event === "afterprint" && "closed" in each.dataset) { each.open = false; delete each.dataset.closed; }
    }
  });
}
const reveal = () => {
  const found = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let each = found && found.closest("details"); each; each = each.parentElement.closest("details")) each.open = true;
  if (found && found.closest("details")) found.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
const value = (row, i) => {
  const text = row.cells[i].firstChild ? row.cells[i].firstChild.textContent.replaceAll("−", "-").replace(/[\u202f%≥≤]/g, "").trim() : "";
  return text !== "" && isFinite(text) ? Number(text) : text;
};
const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : typeof a === typeof b ? String(a).localeCompare(b) : typeof a === "number" ? -1 : 1);
for (const table of document.querySelectorAll("table.data")) {
  if (table.tBodies[0].rows.length < 3) continue;
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * compare(value(a, i), value(b, i)));
      table.tBodies[0].append(...rows);
    });
  });
}
for (const gallery of document.querySelectorAll("ul.gallery")) {
  if (gallery.children.length < 25) continue;
  const label = document.createElement("label"), input = document.createElement("input"), told = document.createElement("span");
  label.className = "filter";
  input.type = "search";
  told.setAttribute("role", "status");
  told.className = "note";
  label.append("Show only", input);
  gallery.before(label, told);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase();
    let shown = 0;
    for (const each of gallery.children) {
      each.hidden = !each.querySelector("figcaption").textContent.toLowerCase().includes(words);
      shown += !each.hidden;
    }
    told.textContent = words ? `${shown} of ${gallery.children.length} shown` : "";
  });
}
