// The plots: drawn when they come into view, in the colours of the page.
const plots = (() => {
  const figures = read("figures");
  const drawn = new Set();
  const color = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
  const dress = (layout) => {
    const lines = { gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--line") };
    const dressed = { ...layout, font: { family: "system-ui, sans-serif", size: 12, color: color("--text") } };
    for (const name of Object.keys(layout)) if (/^[xy]axis/.test(name)) dressed[name] = { ...layout[name], ...lines };
    return dressed;
  };
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const colored = (figure) =>
    JSON.parse(JSON.stringify(figure).replace(/"(--[a-z]+)"/g, (_, name) => JSON.stringify(color(name))));
  const draw = (name) => {
    const { data, layout } = colored(figures[name]);
    const isFirst = !drawn.has(name);
    drawn.add(name);
    const done = Plotly.react(`plot-${name}`, data, dress(layout), config).then(fit);
    if (isFirst) {
      byId(`plot-${name}`).on("plotly_click", ({ points }) => {
        const card = gallery.cardOf.get(points[0].customdata);
        if (card) gallery.enlarge(card);
      });
    }
    return done;
  };
  // Lets the style sheet scale the drawings of a plot to the width of paper.
  const fit = (plot) => {
    for (const drawing of plot.querySelectorAll(".main-svg")) {
      const [width, height] = ["width", "height"].map((side) => drawing.getAttribute(side));
      drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
      plot.parentElement.style.setProperty("--ratio", width / height);
    }
    return plot;
  };
  const names = Object.keys(figures);
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const name = entry.target.id.slice("plot-".length);
        if (entry.isIntersecting && !drawn.has(name)) draw(name);
      }
    },
    { rootMargin: "600px" },
  );
  for (const name of names) observer.observe(byId(`plot-${name}`));
  for (const media of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(media).addEventListener("change", () => [...drawn].forEach(draw));
  }
  addEventListener("beforeprint", () => names.filter((name) => !drawn.has(name)).forEach(draw));
  return { color, config, dress, fit };
})();
