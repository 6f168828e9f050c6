"use strict";
// Draws the figures of the page in the colors of its theme, and lets the reader choose a query.
const data = JSON.parse(document.getElementById("data").textContent);
const small = matchMedia("(max-width: 560px)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(own) {
  const axis = {
    gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--line"),
    automargin: true,
  };
  const layout = {
    ...own,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {color: color("--ink"), size: small.matches ? 11 : 12, family: "system-ui, sans-serif"},
    margin: {l: 8, r: 12, t: 10, b: 8, ...own.margin},
    hoverlabel: {bgcolor: color("--panel"), bordercolor: color("--line"), font: {color: color("--ink")}},
    legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0, ...own.legend},
  };
  for (const key of new Set(["xaxis", "yaxis", ...Object.keys(own).filter(k => /^[xy]axis\d*$/.test(k))]))
    layout[key] = {...axis, ...own[key]};
  return layout;
}

const config = {displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"]};

function draw(name) {
  const place = document.getElementById(`figure-${name}`), own = data.figures[name];
  return Plotly.react(place, own.data, themed(own.layout), config);
}

async function drawAll() {
  let drawn = 0;
  for (const name of Object.keys(data.figures)) {
    await draw(name);
    drawn += 1;
  }
  document.documentElement.dataset.drawn = String(drawn);
}

// A figure in a closed part has no width when it is drawn.
document.querySelectorAll("details").forEach(part => part.addEventListener("toggle", () => {
  if (part.open) part.querySelectorAll(".js-plotly-plot").forEach(p => Plotly.Plots.resize(p));
}));

drawAll();
dark.addEventListener("change", drawAll);
