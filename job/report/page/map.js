// The map: Plotly draws the picks and lets one move and select, `makePoints` draws all images below them.
(() => {
  const packed = byId("map-data");
  if (!packed) return;
  const MARGIN = 8;
  const NEAR = 12; // pixels within which an image is pointed at
  const RAMP = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"]; // of Viridis
  const plot = byId("plot-map");
  const thumbnails = read("thumbnails");
  const palette = read("palette");
  const isTouch = matchMedia("(pointer: coarse)").matches;
  let map = null;
  let points = null;
  let picks = [];
  let labelled = new Set();
  let coloring = 0;
  let mode = isTouch ? false : "select";
  let ring = null; // number of the point that has one
  let view = null; // left, right, bottom, top
  let bounds = null;
  let ready = null;

  const unpack = async () => {
    const bytes = Uint8Array.from(atob(packed.textContent.trim()), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  };

  const findEnds = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const toRgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
  const ramp = (share) => {
    const place = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
    const step = Math.min(Math.floor(place), RAMP.length - 2);
    const [low, high] = [toRgb(RAMP[step]), toRgb(RAMP[step + 1])];
    return low.map((value, channel) => Math.round(value + (high[channel] - value) * (place - step)));
  };
  const groupColor = (name, group) => {
    if (/^(unknown|nothing detected|\d+ other values?)$/.test(name)) return palette.other;
    const fixed = map.colorings[coloring].name === "class" ? palette.classes[name] : undefined;
    return palette.colors[(fixed ?? group) % palette.colors.length];
  };
  const element = (tag, className, ...content) => {
    const made = document.createElement(tag);
    made.className = className;
    made.append(...content);
    return made;
  };
  const recolor = () => {
    const { values, groups } = map.colorings[coloring] || { values: map.x.map(() => null), groups: [] };
    const known = values.filter((value) => value !== null);
    const [low, high] = findEnds(known);
    const byGroup = groups.map((name, group) => toRgb(groupColor(name, group)));
    const unknown = toRgb(palette.other);
    const alpha = map.x.length > 20000 ? 160 : 215;
    const colors = new Uint8Array(4 * values.length);
    const counts = new Array(groups.length).fill(0);
    values.forEach((value, point) => {
      const color = value === null ? unknown : groups.length ? byGroup[value] : ramp(high > low ? (value - low) / (high - low) : 0);
      colors.set([...color, alpha], 4 * point);
      if (groups.length && value !== null) counts[value] += 1;
    });
    points.color(colors);
    const list = groups.map((name, group) => {
      const swatch = element("span", "swatch");
      swatch.style.background = groupColor(name, group);
      return counts[group] ? element("li", "", swatch, `${name} `, element("span", "note", counts[group].toLocaleString("en"))) : null;
    });
    if (!groups.length && known.length) {
      const bar = element("span", "ramp");
      bar.style.background = `linear-gradient(to right, ${RAMP.join(", ")})`;
      list.push(element("li", "", bar, element("span", "ends", `${low.toPrecision(3)}`, element("span", "", `${high.toPrecision(3)}`))));
    }
    byId("legend").replaceChildren(...list.filter(Boolean));
  };
  const size = () => (map.x.length > 20000 ? 4 : map.x.length > 2000 ? 6 : 9);
  const paint = () => {
    const [left, right, bottom, top] = view;
    points.draw({ left, right, bottom, top, size: size() });
  };
  const look = () => {
    const { xaxis, yaxis } = plot.layout;
    view = [...xaxis.range, ...yaxis.range];
    paint();
  };

  const describe = (point) => {
    const { name, values, groups } = map.colorings[coloring] || {};
    if (!name) return "";
    const value = values[point] === null ? "unknown" : groups.length ? groups[values[point]] : values[point];
    return `${name}: ${value}`;
  };
  const inspect = (point) => {
    byId("seen-image").hidden = !thumbnails[point];
    if (thumbnails[point]) byId("seen-image").src = thumbnails[point];
    byId("seen-name").textContent = map.names[point];
    const kind = map.ranks[point] ? `Pick ${map.ranks[point]}` : labelled.has(point) ? "Labelled" : "Not picked";
    byId("seen-facts").textContent = [kind, describe(point)].filter(Boolean).join(" · ");
  };
  const find = (event) => {
    const box = byId("map-canvas").getBoundingClientRect();
    const [left, right, bottom, top] = view;
    const [across, down] = [event.clientX - box.left, event.clientY - box.top];
    if (across < 0 || down < 0 || across > box.width || down > box.height) return null;
    const distance = (point) => Math.hypot(
      ((map.x[point] - left) / (right - left)) * box.width - across,
      ((top - map.y[point]) / (top - bottom)) * box.height - down,
    );
    const nearest = (among) => {
      let [best, least] = [null, NEAR];
      for (const point of among) {
        const far = distance(point);
        if (far < least) [best, least] = [point, far];
      }
      return best;
    };
    return nearest(picks) ?? nearest(map.x.keys());
  };

  const pad = ([low, high]) => [low - 0.05 * (high - low || 1), high + 0.05 * (high - low || 1)];
  const take = (rows) => ({ x: rows.map((point) => map.x[point]), y: rows.map((point) => map.y[point]), mode: "markers" });
  const draw = async () => {
    const [back, text, accent] = ["--back", "--text", "--accent"].map(plots.color);
    const traces = [
      { ...take([...labelled]), marker: { size: 10, symbol: "diamond-open", color: text } },
      {
        ...take(picks),
        mode: "markers+text",
        text: picks.map((point) => String(map.ranks[point])),
        textfont: { size: 10, color: back },
        marker: { size: 20, color: accent, line: { width: 1.5, color: back } },
      },
      { ...take(ring === null ? [] : [ring]), marker: { size: 36, symbol: "circle-open", color: text, line: { width: 3 } } },
    ];
    const axis = { showticklabels: false, showgrid: false, zeroline: false, ticks: "" };
    const layout = plots.dress({
      height: plot.parentElement.clientHeight,
      margin: { l: MARGIN, r: MARGIN, t: MARGIN, b: MARGIN },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      showlegend: false,
      hovermode: false,
      dragmode: mode,
      uirevision: "kept",
      selectionrevision: "kept",
      xaxis: { ...axis, range: pad(bounds.x) },
      yaxis: { ...axis, range: pad(bounds.y), scaleanchor: "x" },
    });
    plots.fit(await Plotly.react(plot, traces, layout, { ...plots.config, scrollZoom: !isTouch }));
    look();
  };

  const clear = async () => {
    gallery.showOnly(null);
    byId("in-box").textContent = "";
    if ((plot.layout.selections || []).length) await Plotly.relayout(plot, { selections: [] });
  };
  const choose = ({ x, y }) => {
    const [[left, right], [bottom, top]] = [x, y].map((ends) => [Math.min(...ends), Math.max(...ends)]);
    const isInside = (point) => map.x[point] >= left && map.x[point] <= right && map.y[point] >= bottom && map.y[point] <= top;
    const inside = [...map.x.keys()].filter(isInside);
    const ranks = new Set(inside.map((point) => map.ranks[point]).filter(Boolean));
    byId("in-box").textContent = `${inside.length.toLocaleString("en")} images in the box, ${ranks.size} of them picks. The gallery shows these picks.`;
    gallery.showOnly(ranks);
  };
  const show = async (rank) => {
    await (ready ??= start());
    ring = map.ranks.indexOf(rank);
    inspect(ring);
    await draw();
    byId("space").scrollIntoView();
    byId("seen").focus({ preventScroll: true });
  };
  const setMode = (value) => {
    mode = value;
    for (const [id, name] of [["map-select", "select"], ["map-move", "pan"]]) byId(id).setAttribute("aria-pressed", String(mode === name));
    return Plotly.relayout(plot, { dragmode: mode });
  };

  const start = async () => {
    map = await unpack();
    labelled = new Set(map.labelled);
    picks = [...map.ranks.keys()].filter((point) => map.ranks[point]);
    bounds = { x: findEnds(map.x), y: findEnds(map.y) };
    points = makePoints(byId("map-canvas"), map.x, map.y);
    byId("color-by").replaceChildren(...map.colorings.map(({ name }, number) => new Option(name, String(number))));
    recolor();
    await draw();
    setMode(mode);
    plot.on("plotly_relayouting", (change) => {
      const ends = ["xaxis.range[0]", "xaxis.range[1]", "yaxis.range[0]", "yaxis.range[1]"];
      view = ends.map((end, place) => change[end] ?? view[place]);
      paint();
    });
    plot.on("plotly_relayout", look);
    plot.on("plotly_selected", (event) => event && event.range && choose(event.range));
    plot.on("plotly_deselect", clear);
    new ResizeObserver(() => requestAnimationFrame(look)).observe(byId("map-canvas"));
    let pressed = null;
    plot.addEventListener("pointermove", (event) => {
      const point = event.buttons ? null : find(event);
      if (point !== null) inspect(point);
    });
    plot.addEventListener("pointerdown", (event) => { pressed = event; }, { capture: true });
    addEventListener("pointerup", (event) => {
      const isClick = pressed && Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY) < 5;
      const point = isClick ? find(event) : null;
      pressed = null;
      if (point === null) return;
      inspect(point);
      if (map.ranks[point]) gallery.enlarge(gallery.cardOf.get(map.ranks[point]));
    }, { capture: true });
    byId("color-by").addEventListener("input", () => {
      coloring = Number(byId("color-by").value);
      recolor();
      paint();
    });
    byId("map-select").addEventListener("click", () => setMode(mode === "select" ? false : "select"));
    byId("map-move").addEventListener("click", () => setMode(mode === "pan" ? false : "pan"));
    byId("map-reset").addEventListener("click", async () => {
      await clear();
      await Plotly.relayout(plot, { "xaxis.range": pad(bounds.x), "yaxis.range": pad(bounds.y) });
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    gallery.onClear(clear);
    plot.dataset.ready = "1";
  };
  for (const [rank, card] of gallery.cardOf) card.querySelector(".to-map").addEventListener("click", () => show(rank));
  if (byId("large-map")) {
    byId("large-map").addEventListener("click", () => {
      const rank = Number(gallery.current().dataset.rank);
      byId("large").close();
      show(rank);
    });
  }
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) ready ??= start();
  }, { rootMargin: "800px" });
  observer.observe(plot);
  // In time for a print, which does not wait.
  addEventListener("load", () => setTimeout(() => { ready ??= start(); }, 1000));
})();
