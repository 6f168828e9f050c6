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
  for (const trace of own.data) if (trace.type === "heatmap") trace.textfont = {color: color("--ink")};
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

// Choosing a query: a list, buttons, or a point of the map.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);
let paused = calm.matches;

function element(name, className, ...inside) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...inside);
  return made;
}

function still(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
  image.src = canvas.toDataURL();
}

function setMotion(image) {
  const moving = image.dataset.moving;
  image.onload = paused ? () => { image.onload = null; still(image); } : null;
  image.src = moving;
}

// A clip with its class; right is undefined where nothing can be right or wrong.
function clip(own, entry, right, lines) {
  const part = element("figure", "clip" + (right === undefined ? "" : right ? " is-right" : " is-wrong"));
  const name = own.names[entry.label];
  if (own.clips[entry.clip]) {
    const image = element("img");
    image.alt = `clip of ${entry.name || name}`;
    image.dataset.moving = `data:image/webp;base64,${own.clips[entry.clip]}`;
    setMotion(image);
    part.append(image);
  } else {
    part.append(element("div", "none", "no clip"));
  }
  const mark = right === undefined ? "" : right ? "✓ " : "✗ ";
  const kind = right === undefined ? "" : right ? "right" : "wrong";
  part.append(element("div", kind, element("strong", "", mark + name)));
  for (const line of lines) part.append(element("div", "hint", line));
  return part;
}

function explore(section) {
  const own = data.videos[section.dataset.explore], find = x => section.querySelector(x);
  const select = find(".choose"), wrong = find(".only-wrong"), pause = find(".pause");
  const place = document.getElementById(`figure-${own.figure}`);
  const ring = data.figures[own.figure].data.length - 1;
  const isRight = q => q.label === q.vote;

  function fill() {
    const shown = own.queries.map((q, i) => [q, i]).filter(([q]) => !wrong.checked || !isRight(q));
    select.replaceChildren(...shown.map(([q, i]) => {
      const option = element("option", "", `${isRight(q) ? "✓" : "✗"} ${own.names[q.label]} · ${q.name}`);
      option.value = String(i);
      return option;
    }));
  }

  function choose(i) {
    const q = own.queries[i];
    if (!q) { find(".query").replaceChildren(); find(".neighbors").replaceChildren(); return; }
    if (![...select.options].some(o => o.value === String(i))) { wrong.checked = false; fill(); }
    select.value = String(i);
    const told = isRight(q) ? "neighbors vote right" : `neighbors vote for ${own.names[q.vote]}`;
    find(".query").replaceChildren(clip(own, q, isRight(q), [q.name, told]));
    find(".neighbors").replaceChildren(...q.near.map((n, rank) => {
      const video = own.bank[n.of], same = video.label === q.label;
      const line = `${rank + 1}. cosine ${n.cosine.toFixed(3)}`;
      return element("li", "", clip(own, video, same, [line, ...(video.name ? [video.name] : [])]));
    }));
    const trace = data.figures[own.figure].data[ring];
    [trace.x, trace.y] = [[q.place[0]], [q.place[1]]];
    draw(own.figure);
  }

  function step(by) {
    const count = select.options.length;
    if (count) choose(Number(select.options[(select.selectedIndex + by + count) % count].value));
  }

  fill();
  select.addEventListener("change", () => choose(Number(select.value)));
  find(".previous").addEventListener("click", () => step(-1));
  find(".next").addEventListener("click", () => step(1));
  wrong.addEventListener("change", () => { fill(); choose(select.options.length ? Number(select.value) : -1); });
  pause.addEventListener("click", () => { paused = !paused; showMotion(); });
  place.on("plotly_click", e => { if (e.points[0].customdata !== undefined) choose(e.points[0].customdata); });
  place.on("plotly_hover", e => {
    const q = own.queries[e.points[0].customdata];
    if (!q) return;
    tip.replaceChildren(clip(own, q, isRight(q), [q.name]));
    const {clientX, clientY} = e.event;
    tip.style.left = `${Math.max(4, Math.min(clientX + 14, innerWidth - 164))}px`;
    tip.style.top = `${Math.max(4, Math.min(clientY + 14, innerHeight - 230))}px`;
    tip.hidden = false;
  });
  place.on("plotly_unhover", () => { tip.hidden = true; });
  choose(0);
}

function showMotion() {
  document.querySelectorAll("img[data-moving]").forEach(setMotion);
  document.querySelectorAll(".pause").forEach(b => {
    b.textContent = paused ? "Play clips" : "Pause clips";
    b.setAttribute("aria-pressed", String(paused));
  });
}

// The timeline of an untrimmed video that the reader chooses.
const safe = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

function timelines(section) {
  const own = data.videos[section.dataset.timelines], figure = data.figures[own.figure];
  const select = section.querySelector(".choose");
  select.replaceChildren(...own.segments.map((v, i) => {
    const option = element("option", "", v.name);
    option.value = String(i);
    return option;
  }));

  function choose(i) {
    const v = own.segments[i];
    const names = [...new Set([...v.truth.map(t => t[2]), ...v.found.map(f => f[2])])];
    const top = Math.max(1e-9, ...v.found.map(f => f[3])), ticks = [], places = [];
    figure.data = names.flatMap((name, c) => {
      const tone = own.colors[c % own.colors.length];
      const told = v.truth.filter(t => t[2] === name), found = v.found.filter(f => f[2] === name);
      const row = own.annotated ? 3 * c + 1 : c;
      if (own.annotated) {
        ticks.push(`${safe(name)}, annotated`, "predicted");
        places.push(3 * c, row);
      } else {
        ticks.push(safe(name));
        places.push(row);
      }
      const bars = (rows, y, more) => ({
        type: "bar", orientation: "h", width: .8, base: rows.map(r => r[0]), x: rows.map(r => r[1] - r[0]),
        y: rows.map(() => y), showlegend: false, textposition: "inside", insidetextanchor: "middle", ...more,
      });
      return [
        bars(told, row - 1, {
          marker: {color: tone, line: {width: 1, color: tone}}, hovertemplate: "%{base:.1f} s, %{x:.1f} s long<extra>annotated</extra>",
        }),
        bars(found, row, {
          marker: {
            color: tone, opacity: found.map(f => .2 + .8 * Math.max(0, f[3] / top)),
            line: {width: 1, color: tone},
          },
          text: found.map(f => f[4] === "" ? "" : f[4] === "hit" ? "✓" : "✗"),
          customdata: found.map(f => [f[3], f[4]]),
          hovertemplate: "%{base:.1f} s, %{x:.1f} s long, score %{customdata[0]}<extra>%{customdata[1]}</extra>",
        }),
      ];
    });
    figure.layout.yaxis = {tickvals: places, ticktext: ticks, range: [Math.max(0, ...places) + .6, -.6], showgrid: false};
    figure.layout.xaxis = {title: {text: "seconds"}, rangemode: "tozero", ...(v.duration ? {range: [0, v.duration]} : {})};
    figure.layout.showlegend = false;
    figure.layout.hovermode = "closest";
    const place = document.getElementById(`figure-${own.figure}`);
    place.style.height = `${120 + 64 * Math.max(1, names.length)}px`;
    select.value = String(i);
    draw(own.figure).then(() => Plotly.Plots.resize(place));
    section.querySelector(".list").replaceChildren(list(v));
  }

  function list(v) {
    const part = element("details", "", element("summary", "", "Segments"));
    const table = element("table"), head = element("tr");
    for (const h of ["class", "from, s", "to, s", "score", "kind"]) head.append(element("th", "", h));
    table.append(element("thead", "", head));
    const body = element("tbody");
    for (const [from, to, name] of v.truth)
      body.append(element("tr", "", ...[name, from, to, "", "annotated"].map(x => element("td", "", String(x)))));
    for (const [from, to, name, score, kind] of v.found)
      body.append(element("tr", "", ...[name, from, to, score, kind].map(x => element("td", "", String(x)))));
    table.append(body);
    const scroll = element("div", "scroll", table);
    scroll.tabIndex = 0;
    part.append(scroll);
    return part;
  }

  const step = by => choose((select.selectedIndex + by + own.segments.length) % own.segments.length);
  select.addEventListener("change", () => choose(Number(select.value)));
  section.querySelector(".previous").addEventListener("click", () => step(-1));
  section.querySelector(".next").addEventListener("click", () => step(1));
  choose(0);
}

drawAll().then(() => {
  document.querySelectorAll("[data-explore]").forEach(explore);
  document.querySelectorAll("[data-timelines]").forEach(timelines);
  showMotion();
  document.documentElement.dataset.ready = "";
});
dark.addEventListener("change", drawAll);
