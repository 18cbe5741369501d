// Draws the figures in the colours of the theme; sorts the table; gives the rows back.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // Okabe and Ito's colours, which people with any colour vision can tell apart; darker or lighter.
  const light = ["#0072b2", "#d55e00", "#009e73", "#a0528a", "#b07d00", "#4a90c2", "#6b6b6b", "#8c3b2e"];
  const dark = ["#56b4e9", "#ff8a3d", "#3ecf9e", "#e09cc8", "#f0c040", "#9cc8ff", "#b5b5b5", "#e08a7a"];
  const named = { dense: 0, attention: 3, expert: 2, router: 4, head: 5, rest: 6, wait: 1,
                  RssAnon: 0, RssFile: 6, swap: 1 };
  const query = window.matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const colour = (name) => {
    const palette = query.matches && !printing ? dark : light;
    const configuration = /^c(\d)$/.exec(name);
    if (configuration) return palette[Number(configuration[1])];
    const part = /^(?:part|mem)-(.+)$/.exec(name);
    if (part) return palette[named[part[1]] ?? 6];
    const variable = name === "rule" ? "grid" : name;
    return getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim() || "#888888";
  };
  const themed = (value) => {
    if (typeof value === "string") return /^@[\w-]+$/.test(value) ? colour(value.slice(1)) : value;
    if (Array.isArray(value)) return value.map(themed);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
  };
  const place = (id) => document.getElementById(id);
  const levels = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const decoded = (text, columns) => Array.from({ length: text.length / columns }, (_, row) =>
    Array.from(text.slice(row * columns, (row + 1) * columns), (level) => levels.indexOf(level) / 63));
  const picker = (id) => document.querySelector(`select[data-figure="${id}"]`);
  const draw = (id) => {
    const { variants, columns, ...figure } = figures[id];
    const { data, layout } = themed(figure);
    if (variants)
      variants[picker(id).value].forEach((text, index) => { data[index].z = decoded(text, columns); });
    const axis = { gridcolor: colour("grid"), linecolor: colour("grid"), zerolinecolor: colour("grid") };
    layout.font = { family: "system-ui, sans-serif", size: 12, color: colour("ink") };
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
      layout[name] = { ...axis, automargin: true, ...layout[name] };
    // A page of paper is narrower than most screens, and its layout comes after this.
    layout.width = Math.min(place(id).clientWidth, printing ? 680 : Infinity);
    return Plotly.react(id, data, layout, { displayModeBar: false });
  };
  const drawAll = () => {
    for (const key of document.querySelectorAll("[data-colour]"))
      key.style.setProperty("--key", colour(key.dataset.colour.slice(1)));
    for (const id of Object.keys(figures)) if (place(id).closest("details:not([open])") === null) draw(id);
  };
  drawAll();
  query.addEventListener("change", drawAll);
  let [width, waiting] = [document.body.clientWidth, 0];
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (printing || width === document.body.clientWidth) return;
      width = document.body.clientWidth;
      drawAll();
    }, 150);
  });
  for (const select of document.querySelectorAll("select[data-figure]"))
    select.addEventListener("change", () => draw(select.dataset.figure));
  for (const fold of document.querySelectorAll("details"))
    fold.addEventListener("toggle", () => { if (fold.open) draw(fold.querySelector(".chart").id); });
  const folded = [];
  window.addEventListener("beforeprint", () => {
    printing = true;
    document.documentElement.classList.add("paper");
    folded.push(...document.querySelectorAll("details:not([open])"));
    for (const fold of folded) fold.open = true;
    drawAll();
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    document.documentElement.classList.remove("paper");
    for (const fold of folded.splice(0)) fold.open = false;
    drawAll();
  });

  const body = document.querySelector("#rows tbody");
  const heads = [...document.querySelectorAll("#rows thead th")];
  const number = (text) => (/^-?[\d,.]+(e-?\d+)?$/.test(text) ? Number(text.replaceAll(",", "")) : NaN);
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (row) => row.cells[column].textContent;
    const missing = (row) => key(row) === "-";
    body.append(...[...body.rows].sort((a, b) =>
      missing(a) - missing(b) || compare(key(a), key(b)) * (ascending ? 1 : -1)));
  }));

  document.getElementById("download").addEventListener("click", () => {
    const rows = JSON.parse(document.getElementById("data").textContent);
    const text = rows.map((row) => JSON.stringify(row) + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
    link.download = "results.jsonl";
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
