"use strict";
(() => {
  const $ = (selector, at = document) => at.querySelector(selector);
  const $$ = (selector, at = document) => [...at.querySelectorAll(selector)];

  // Tables that sort: what is no number comes last, whichever way.
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace("−", "-"));
    return text === "–" ? null : Number.isNaN(number) || column === 0 ? text : number;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  for (const button of $$("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = $("tbody", button.closest("table"));
      const up = head.ariaSort ? head.ariaSort === "descending" : head.cellIndex === 0;
      for (const other of $$("th[aria-sort]", head.parentNode)) other.removeAttribute("aria-sort");
      head.ariaSort = up ? "ascending" : "descending";
      const rows = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : compare(a, b) * (up ? 1 : -1)));
      body.append(...rows.map(([, row]) => row));
    });
  }

  const slider = $("#threshold");
  if (!slider) return; // the page of a data set has tables alone
  const data = JSON.parse($("#data").textContent);

  // The threshold explorer. A count is [objects, reported by threshold, right by threshold].
  const share = (part, whole) => (whole ? part / whole : null);
  const at = ([objects, reported, right], index) => ({
    precision: share(right[index], reported[index]),
    recall: share(right[index], objects),
    f1: share(2 * right[index], reported[index] + objects),
    found: right[index],
    missed: objects - right[index],
    wrong: reported[index] - right[index],
  });
  const written = (name, value) => (value === null ? "–" : ["precision", "recall", "f1"].includes(name) ? value.toFixed(3) : value);
  const write = (place, counts, index) => {
    const values = at(counts, index);
    for (const cell of $$("[data-is]", place)) cell.textContent = written(cell.dataset.is, values[cell.dataset.is]);
  };
  const plot = (svg) => {
    const [left, right, bottom, top] = svg.dataset.plot.split(" ").map(Number);
    return (x, y) => [left + x * (right - left), bottom - y * (bottom - top)];
  };
  const said = $("#advised"), cursor = $("#explore .cursor");
  const classRows = $$("#explore tr[data-class]"), curves = $$("#curves li[data-class]");
  const move = () => {
    const index = Number(slider.value), score = data.thresholds[index], text = score.toFixed(2);
    slider.ariaValueText = text;
    for (const place of $$("[data-threshold]")) place.textContent = text;
    write($("#reading"), data.all, index);
    write($("#explore .all"), data.all, index);
    for (const row of classRows) write(row, data.classes[row.dataset.class], index);
    const svg = cursor.closest("svg"), [x, bottom] = plot(svg)(score, 0), [, top] = plot(svg)(0, 1);
    cursor.setAttribute("d", `M${x} ${bottom}V${top}`);
    for (const item of curves) {
      const { precision, recall } = at(data.classes[item.dataset.class], index), point = $(".point", item);
      point.setAttribute("visibility", precision === null ? "hidden" : "visible");
      const [cx, cy] = plot($("svg", item))(recall, precision ?? 0);
      point.setAttribute("cx", cx);
      point.setAttribute("cy", cy);
    }
  };
  let waiting = 0;
  const set = (index, text) => {
    said.textContent = text;
    if (index !== null) slider.value = index;
    move();
  };
  slider.addEventListener("input", () => {
    said.textContent = "";
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(move);
  });
  const indices = [...Array(101).keys()];
  const advice = {
    own: () => [slider.dataset.own, ""],
    f1: () => {
      const best = indices.reduce((a, b) => ((at(data.all, b).f1 ?? 0) >= (at(data.all, a).f1 ?? 0) ? b : a));
      return data.all[2].some(Boolean) ? [best, ""] : [null, "No object is found at any threshold."];
    },
    precision: (wanted) => { // the lowest from which on it holds wherever anything is reported
      const low = 1 + indices.findLastIndex((i) => (at(data.all, i).precision ?? 1) < wanted);
      return low < 101 && data.all[1][low] ? [low, ""] : [null, `No threshold keeps a precision of ${wanted}.`];
    },
    recall: (wanted) => {
      const high = indices.findLastIndex((i) => (at(data.all, i).recall ?? -1) >= wanted);
      return high >= 0 ? [high, ""] : [null, `No threshold has a recall of ${wanted}.`];
    },
  };
  for (const button of $$("[data-advice]")) {
    button.addEventListener("click", () => set(...advice[button.dataset.advice](Number($("input", button.parentNode)?.value))));
  }
  move();

  // The gallery and its filters, one of which is a cell of the confusion matrix.
  const cards = $$(".card"), filters = $$("#errors select"), cells = $$("[data-cell]");
  const more = $("#more");
  let cell = null, most = 48;
  const filter = () => {
    const [label, kind, size] = filters.map((one) => one.value);
    const fits = ({ dataset: d }) =>
      (!label || d.object === label || d.found === label) && (!kind || d.kind === kind) && (!size || d.size === size) &&
      (!cell || d.at.split(" ").includes(cell.dataset.cell));
    let found = 0;
    for (const card of cards) card.hidden = !fits(card) || ++found > most;
    for (const one of cells) one.ariaPressed = String(cell !== null && one.dataset.cell === cell.dataset.cell);
    more.hidden = found <= most;
    const narrowed = cell ? `, ${cell.dataset.says}` : "", some = more.hidden ? "" : `; the first ${most} are shown`;
    $("#shown").textContent = `${found} of ${cards.length} error${cards.length === 1 ? "" : "s"}${narrowed}${some}.`;
  };
  const show = (of) => {
    cell = of;
    for (const one of filters) one.value = "";
    filter();
  };
  for (const one of filters) one.addEventListener("change", filter);
  for (const one of cells) {
    one.addEventListener("click", () => {
      show(cell === one ? null : one);
      if (!cell) return;
      $("#errors").scrollIntoView();
      $("#errors h2").focus({ preventScroll: true });
    });
  }
  if (!cards.length) return;
  $("#every").addEventListener("click", () => show(null));
  more.addEventListener("click", () => {
    most += 48;
    filter();
    $$(".card:not([hidden])")[most - 48].focus();
  });
  filter();
})();
