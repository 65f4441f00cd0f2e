"use strict";
// The page's data is text and numbers; texts go into the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const { rows, axes, metrics, sprite } = data;
const DARK = ["#5aa9e6", "#ff8c42", "#3ddc97", "#e79bc4", "#e6c229", "#9adcff", "#b39ddb",
  "#b0b8c1"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "cross",
  "star"];
const DASHES = ["solid", "dash", "dot", "dashdot"];

function made(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...inside);
  return element;
}

// What Plotly shows it reads as a little markup of its own; it turns these back into characters.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// ---------------------------------------------------------------- the theme
const system = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.dataset.theme || (system.matches ? "dark" : "light");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
find("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
  drawAll();
});
system.addEventListener("change", () => drawAll());

// ---------------------------------------------------------------- plots
const runs = () => data.along.find((one) => one.key === find("along")?.value) || data.along[0];
const metric = () => metrics.find((one) => one.key === find("quality")?.value) || metrics[0];
const titleOf = (key) => metrics.find((one) => one.key === key)?.title || key;
const hidden = new Set();

function style(number, joined) {
  const colours = theme() === "dark" ? DARK : data.colours;
  // Once all colours are used up, they come again with other marks and dashes.
  const round = Math.floor(number / colours.length);
  const dash = DASHES[round % DASHES.length];
  return {
    mode: joined ? "lines+markers" : "markers",
    line: { color: colours[number % colours.length], width: 2, dash },
    marker: { color: colours[number % colours.length], size: 9,
      symbol: SYMBOLS[(number + 3 * round) % SYMBOLS.length] },
  };
}

function trace(number, line, xs, key, joined) {
  const points = line.rows
    .map((row, place) => ({ row, x: xs[place], y: rows[row].numbers[key] }))
    .filter((one) => one.x != null && one.y != null);
  return {
    type: "scatter", name: plain(line.label), ...style(number, joined),
    x: points.map((one) => one.x), y: points.map((one) => one.y),
    customdata: points.map((one) => one.row),
    text: points.map((one) => [`<b>${plain(rows[one.row].title)}</b>`,
      ...rows[one.row].told.map(plain)].join("<br>")),
    hovertemplate: "%{text}<extra></extra>",
  };
}

// A row without a place on the axis is a level line over all of it.
function level(number, line, ends, key) {
  const steps = 24, whole = { ...line, rows: line.rows.flatMap((row) => Array(steps + 1).fill(row)) };
  const xs = line.rows.flatMap(() =>
    Array.from({ length: steps + 1 }, (_, i) => ends[0] + (i / steps) * (ends[1] - ends[0])));
  const one = trace(number, whole, xs, key, true);
  return { ...one, mode: "lines", line: { ...one.line, dash: "dot", width: 1.5 } };
}

// 1, 2 and 5 of every decade, each written out.
const DECADES = Array.from({ length: 16 }, (_, i) => i - 6);
const TICKS = DECADES.flatMap((power) => [1, 2, 5].map((one) => Number(`${one}e${power}`)));
const LOGARITHMIC = { type: "log", tickmode: "array", tickvals: TICKS, ticktext: TICKS.map(String) };

function layout(x, y, more = {}, quality = false) {
  const axis = { gridcolor: colour("--line"), zeroline: false, automargin: true,
    linecolor: colour("--line"), tickcolor: colour("--line") };
  return {
    xaxis: { ...axis, title: { text: plain(x), standoff: 8 }, ...more },
    yaxis: { ...axis, title: { text: plain(y), standoff: 8 },
      ...(quality && find("log").checked ? LOGARITHMIC : {}) },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { family: "system-ui, sans-serif", size: 13, color: colour("--ink") },
    margin: { l: 50, r: 12, t: 12, b: 44 }, hovermode: "closest", autosize: true,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    hoverlabel: { align: "left", font: { size: 12, color: colour("--ink") },
      bgcolor: colour("--sheet"), bordercolor: colour("--accent") },
  };
}

const shownLines = () => runs().lines.map((line, number) => [line, number])
  .filter(([line]) => !hidden.has(line.label));

function figureAlong() {
  const all = runs().lines.flatMap((line) => line.values);
  const ends = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
  const key = metric().key;
  const traces = shownLines().map(([line, number]) => line.values.length
    ? trace(number, line, line.values, key, line.joined) : level(number, line, ends, key));
  return [traces, layout(runs().title, metric().title, {}, true)];
}

function figureTrade() {
  const [y, x] = data.chosen.tradeOff;
  const traces = shownLines().map(([line, number]) =>
    trace(number, line, line.rows.map((row) => rows[row].numbers[x]), y, line.joined));
  return [traces, layout(titleOf(x), titleOf(y))];
}

function figureCost() {
  const key = metric().key;
  const traces = shownLines().map(([line, number]) =>
    trace(number, line, line.rows.map((row) => rows[row].cost), key, false));
  const front = metric().pareto;
  traces.push({
    type: "scatter", mode: "lines+markers", name: "Pareto set", hoverinfo: "skip",
    x: front.map((row) => rows[row].cost), y: front.map((row) => rows[row].numbers[key]),
    line: { shape: "hv", dash: "dot", color: colour("--ink"), width: 1.5 },
    marker: { symbol: "circle-open", size: 17, color: colour("--ink"), line: { width: 2 } },
  });
  const costs = rows.map((row) => row.cost).filter((one) => one > 0);
  const wide = Math.max(...costs) > 4 * Math.min(...costs);
  return [traces, layout("G multiply-adds an image", metric().title,
    wide ? LOGARITHMIC : { rangemode: "nonnegative" }, true)];
}

const FIGURES = { "plot-along": figureAlong, "plot-trade": figureTrade, "plot-cost": figureCost };
const OPTIONS = { displayModeBar: false, responsive: true, doubleClick: "reset" };

function draw(id) {
  const place = find(id);
  if (!place) return;
  const [traces, how] = FIGURES[id]();
  const first = !place.data;
  Plotly.react(place, traces, how, OPTIONS);
  if (first) followed(place);
}

function drawAll() {
  Object.keys(FIGURES).forEach(draw);
  legend();
}

function tell(row) {
  find("readout").textContent = [rows[row].title, ...rows[row].told].join(" · ");
}

function followed(place) {
  let at = -1;
  const points = () => place.data.flatMap((one, curveNumber) => one.customdata
    ? one.customdata.map((row, pointNumber) => ({ curveNumber, pointNumber, row })) : []);
  place.on("plotly_hover", (event) => {
    const row = event.points[0].customdata;
    if (row != null) tell(row);
  });
  place.on("plotly_click", (event) => {
    const row = event.points[0].customdata;
    if (row != null) open(row, true);
  });
  place.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const all = points();
    if (step && all.length) {
      event.preventDefault();
      at = at < 0 && step < 0 ? all.length - 1 : (at + step + all.length) % all.length;
      const { curveNumber, pointNumber, row } = all[at];
      Plotly.Fx.hover(place, [{ curveNumber, pointNumber }]);
      tell(row);
    } else if (event.key === "Enter" && all[at]) {
      event.preventDefault();  // or the button that gets the focus is pressed by the same key
      open(all[at].row, true);
    } else if (event.key === "Escape") {
      Plotly.Fx.unhover(place);
    }
  });
  place.addEventListener("blur", () => { at = -1; Plotly.Fx.unhover(place); });
}

function swatch(number) {
  const { line } = style(number, true);
  const dash = { solid: "", dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" }[line.dash];
  const space = "http://www.w3.org/2000/svg";
  const drawn = document.createElementNS(space, "svg");
  const stroke = document.createElementNS(space, "line");
  for (const [name, value] of Object.entries({ width: 26, height: 10, "aria-hidden": "true" }))
    drawn.setAttribute(name, value);
  for (const [name, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, stroke: line.color,
    "stroke-width": 4, "stroke-dasharray": dash })) stroke.setAttribute(name, value);
  drawn.append(stroke);
  return drawn;
}

function legend() {
  const place = find("legend");
  if (!place) return;
  place.replaceChildren(...runs().lines.map((line, number) => {
    const box = made("input", { type: "checkbox" });
    box.checked = !hidden.has(line.label);
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(line.label); else hidden.add(line.label);
      Object.keys(FIGURES).forEach(draw);
    });
    return made("label", {}, box, swatch(number), line.label);
  }));
}

function scaled() {
  find("log").disabled = !metric().positive;
  find("log").checked = metric().wide;
}

if (find("legend")) {
  scaled();
  find("log").addEventListener("change", drawAll);
  find("along")?.addEventListener("change", () => { hidden.clear(); titles(); drawAll(); });
  find("quality").addEventListener("change", () => { scaled(); titles(); drawAll(); matrix(); });
  find("all").addEventListener("click", () => { hidden.clear(); drawAll(); });
  find("none").addEventListener("click", () => {
    runs().lines.forEach((line) => hidden.add(line.label));
    drawAll();
  });
}

function titles() {
  const title = find("along-title");
  if (title) title.textContent = `${metric().title} along ${runs().title}`;
}

// ---------------------------------------------------------------- pictures
const SEED = "seed";
const settings = { seed: 0, size: 0, rest: {} };
const most = Math.max(0, ...rows.map((row) => row.pictures));
const withPictures = rows.map((row, place) => place).filter((place) => rows[place].pictures);
const axisOf = (key) => key === SEED
  ? { key, title: "seed", values: Array.from({ length: Math.min(12, most) }, (_, i) => i) }
  : axes.find((one) => one.key === key);
const at = (place, axis, value) => axis.key === SEED || rows[place].at[axis.key] === value;

function slider(title, count, value, shown, changed) {
  const output = made("output", {}, shown(value));
  const input = made("input", { type: "range", min: 0, max: count - 1, step: 1, value,
    "aria-label": title, "aria-valuetext": shown(value) });
  input.addEventListener("input", () => {
    output.textContent = shown(+input.value);
    input.setAttribute("aria-valuetext", shown(+input.value));
    changed(+input.value);
  });
  return made("label", {}, title, output, input);
}

// Settings of which some cell has several values: each gets a slider.
function undecided(across, down) {
  return axes.filter((axis) => {
    if (["line", "row", across.key, down.key].includes(axis.key)) return false;
    const seen = new Map();
    return withPictures.some((place) => {
      const cell = [across, down].map((one) => one.key === SEED ? "" : rows[place].at[one.key]);
      const before = seen.get(cell.join());
      seen.set(cell.join(), rows[place].at[axis.key]);
      return before !== undefined && before !== rows[place].at[axis.key];
    });
  });
}

function tile(place, seed) {
  const inside = seed % sprite.tiles, last = sprite.side - 1;
  const known = seed < rows[place].pictures;
  const element = made("div", { class: known
    ? `tile p${place}-${Math.floor(seed / sprite.tiles)}` : "tile", role: "img",
  "aria-label": `${rows[place].title}, seed ${seed}${known ? "" : ": not kept"}` });
  element.style.backgroundPosition =
    `${(inside % sprite.side) / last * 100}% ${Math.floor(inside / sprite.side) / last * 100}%`;
  return element;
}

function cell(places, seed, each) {
  if (!places.length) return made("td", { class: "none" }, "–");
  const place = places[0], side = Math.round(Math.sqrt(each));
  const grid = made("div", { class: "cell" });
  grid.style.gridTemplateColumns = `repeat(${side}, auto)`;
  for (let i = 0; i < each; i++) grid.append(tile(place, seed + i));
  const said = metrics.length ? rows[place].shown[metric().key] || "" : "";
  const under = places.length > 1 ? `${said} (1 of ${places.length})` : said;
  return made("td", { title: [rows[place].title, ...rows[place].told].join("\n") }, grid,
    made("small", {}, under));
}

function sliders() {
  const across = axisOf(find("across").value), down = axisOf(find("down").value);
  const place = find("sliders");
  const rest = undecided(across, down);
  place.replaceChildren();
  if (most > 1) {
    settings.seed = Math.min(settings.seed, most - 1);
    place.append(slider("Seed", most, settings.seed, String, (value) => {
      settings.seed = value;
      matrix();
    }));
  }
  for (const axis of rest) {
    settings.rest[axis.key] = Math.min(settings.rest[axis.key] || 0, axis.values.length - 1);
    const name = (value) => axis.values[value];
    place.append(slider(axis.title, axis.values.length, settings.rest[axis.key], name, (value) => {
      settings.rest[axis.key] = value;
      matrix();
    }));
  }
  place.append(slider("Size", 9, settings.size, (value) => `${SIZES[value]} pixels`, (value) => {
    settings.size = value;
    find("matrix").style.setProperty("--tile", `${SIZES[value]}px`);
  }));
}

const SIZES = [32, 48, 64, 80, 96, 128, 160, 192, 256];

function matrix() {
  if (!find("matrix")) return;
  const across = axisOf(find("across").value), down = axisOf(find("down").value);
  const rest = undecided(across, down), each = +find("each").value;
  const used = (axis) => axis.values.map((_, value) => value)
    .filter((value) => withPictures.some((place) => at(place, axis, value)));
  const columns = used(across), head = made("tr", {}, made("td"));
  for (const value of columns)
    head.append(made("th", { scope: "col" }, label(across, value)));
  const body = made("tbody");
  for (const lower of used(down)) {
    const line = made("tr", {}, made("th", { scope: "row" }, label(down, lower)));
    for (const value of columns) {
      let there = withPictures.filter((p) => at(p, across, value) && at(p, down, lower));
      if (there.length > 1)
        there = there.filter((p) => rest.every((a) => rows[p].at[a.key] === settings.rest[a.key]));
      let seed = settings.seed;
      if (across.key === SEED) seed += value * each;
      if (down.key === SEED) seed += lower * each;
      line.append(cell(there, seed, each));
    }
    body.append(line);
  }
  find("matrix").replaceChildren(made("thead", {}, head), body);
  if (metrics.length) find("below").textContent = `Below a picture: ${metric().title}.`;
}

function label(axis, value) {
  if (axis.key === SEED) return `seed ${settings.seed + value * +find("each").value}`;
  return axis.key === "line" || axis.key === "row"
    ? axis.values[value] : `${axis.title} ${axis.values[value]}`;
}

if (find("matrix")) {
  const wanted = sprite.edge <= 64 ? Math.max(64, sprite.edge * 2) : Math.min(sprite.edge, 160);
  settings.size = SIZES.findLastIndex((size) => size <= wanted);
  find("matrix").style.setProperty("--tile", `${SIZES[settings.size]}px`);
  if (sprite.edge <= 64 && most >= 4 && innerWidth > 800) find("each").value = "4";
  find("matrix").classList.toggle("exact", sprite.edge <= 64);
  for (const id of ["across", "down", "each"])
    find(id).addEventListener("change", () => {
      if (id !== "each" && find("across").value === find("down").value) {
        const other = find(id === "across" ? "down" : "across");
        other.value = [...other.options].find((o) => o.value !== find(id).value).value;
      }
      sliders();
      matrix();
    });
  sliders();
  matrix();
}

// ---------------------------------------------------------------- the table
const table = find("rows");

function open(row, go) {
  const body = find(`row-${row}`), button = body.querySelector(".open");
  if (go || find(`more-${row}`).hidden) {
    find(`more-${row}`).hidden = false;
    button.setAttribute("aria-expanded", "true");
  } else {
    find(`more-${row}`).hidden = true;
    button.setAttribute("aria-expanded", "false");
  }
  if (!go) return;
  table.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
  body.classList.add("chosen");
  body.scrollIntoView({ block: "center" });
  button.focus({ preventScroll: true });
}

const told = (body, column) => {
  const one = body.rows[0].cells[column];
  return one.dataset.value === undefined ? one.textContent : one.dataset.value;
};

function sort(head) {
  const column = head.cellIndex;
  const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const bodies = [...table.tBodies];
  const numbers = bodies.map((body) => told(body, column)).filter((one) => one !== "");
  const numeric = numbers.length > 0 && numbers.every((one) => Number.isFinite(Number(one)));
  bodies.sort((one, other) => {
    const [a, b] = [told(one, column), told(other, column)];
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1;
    return way * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
  });
  table.querySelectorAll("thead [aria-sort]").forEach((one) => one.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
  table.append(...bodies);
}

table.querySelectorAll("thead [aria-sort]").forEach((head) =>
  head.querySelector("button").addEventListener("click", () => sort(head)));
table.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.classList.contains("open")) open(button.closest("tbody").id.slice(4), false);
  if (button.classList.contains("copy")) {
    const text = button.closest(".copied").querySelector("pre");
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);  // what a browser refuses to copy is selected
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }
});

drawAll();
