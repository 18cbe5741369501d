// Draws the figures in the colours of the theme; sorts the table; gives the rows back.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  // Okabe and Ito's colours, which people with any colour vision can tell apart; darker or lighter.
  const light = ["#0072b2", "#d55e00", "#009e73", "#a0528a", "#b07d00", "#4a90c2", "#6b6b6b", "#8c3b2e"];
  const dark = ["#56b4e9", "#ff8a3d", "#3ecf9e", "#e09cc8", "#f0c040", "#9cc8ff", "#b5b5b5", "#e08a7a"];
  const named = { dense: 0, attention: 3, expert: 2, router: 4, head: 5, rest: 6, wait: 1,
                  RssAnon: 0, RssFile: 5, swap: 1 };
  const query = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => {
    const palette = query.matches ? dark : light;
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
  const draw = () => {
    for (const [id, figure] of Object.entries(figures)) {
      const { data, layout } = themed(figure);
      const axis = { gridcolor: colour("grid"), linecolor: colour("grid"), zerolinecolor: colour("grid") };
      layout.font = { family: "system-ui, sans-serif", size: 12, color: colour("ink") };
      layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
      for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
        layout[name] = { ...axis, automargin: true, ...layout[name] };
      Plotly.react(id, data, layout, { displayModeBar: false, responsive: true });
    }
  };
  draw();
  query.addEventListener("change", draw);

  const body = document.querySelector("#rows tbody");
  document.querySelectorAll("#rows th").forEach((head, column) => {
    let ascending = false;
    head.addEventListener("click", () => {
      ascending = !ascending;
      const key = (row) => row.cells[column].textContent;
      const rows = [...body.rows].sort((a, b) =>
        key(a).localeCompare(key(b), undefined, { numeric: true }) * (ascending ? 1 : -1));
      body.append(...rows);
    });
  });

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
