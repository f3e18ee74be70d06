"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(byId(id).textContent);

  const cards = [...document.querySelectorAll(".card")];
  const filter = () => {
    const wantedClass = byId("class").value;
    const text = byId("text").value.toLowerCase();
    for (const card of cards) {
      const classes = JSON.parse(card.dataset.classes);
      const hasClass = wantedClass === "" || (wantedClass === " " ? classes.length === 0 : classes.includes(wantedClass));
      const words = card.querySelector(".name").textContent + " " + card.querySelector(".reason").textContent;
      card.hidden = !(hasClass && words.toLowerCase().includes(text));
    }
    byId("shown").textContent = `${cards.filter((card) => !card.hidden).length} picks`;
  };

  if (cards.length) {
    byId("filters").addEventListener("input", filter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("boxes").addEventListener("input", () => document.body.classList.toggle("no-boxes", !byId("boxes").checked));

    let enlarged = null;
    const enlarge = (card) => {
      enlarged = card;
      const selectors = [".picture", "h3", ".reason", ".facts", ".detections"];
      const originals = selectors.map((selector) => card.querySelector(selector)).filter(Boolean);
      byId("large-content").replaceChildren(...originals.map((element) => element.cloneNode(true)));
      const picture = byId("large-content").querySelector(".picture");
      const [width, height] = (picture.style.aspectRatio || "4 / 3").split("/").map(Number);
      picture.style.width = `min(100%, ${(66 * width) / height}vh)`;
      if (!byId("large").open) byId("large").showModal();
    };
    const step = (offset) => {
      const shown = cards.filter((card) => !card.hidden);
      if (shown.length) enlarge(shown[(shown.indexOf(enlarged) + offset + shown.length) % shown.length]);
    };
    for (const card of cards) card.querySelector("button").addEventListener("click", () => enlarge(card));
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    byId("large").addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    byId("large").addEventListener("close", () => enlarged && enlarged.querySelector("button").focus());
  }

  const figures = read("figures");
  const colors = () => {
    const style = getComputedStyle(document.body);
    const [text, line] = ["--text", "--line"].map((name) => style.getPropertyValue(name).trim());
    return { text, line };
  };
  const colored = (layout) => {
    const { text, line } = colors();
    const changed = { ...layout, font: { ...layout.font, color: text } };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis/.test(name)) changed[name] = { ...layout[name], gridcolor: line, linecolor: line, zerolinecolor: line };
    }
    return changed;
  };
  const draw = () => {
    for (const [name, figure] of Object.entries(figures)) {
      const config = { responsive: true, displaylogo: false, displayModeBar: false };
      Plotly.react(`plot-${name}`, figure.data, colored(figure.layout), config);
    }
  };
  if (Object.keys(figures).length) {
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  if (figures.map) {
    const { names, thumbnails } = read("hovers");
    const hover = byId("hover");
    byId("plot-map").on("plotly_hover", ({ points, event }) => {
      const row = points[0].customdata;
      hover.querySelector("img").src = thumbnails[row];
      hover.querySelector(".name").textContent = names[row];
      hover.hidden = false;
      hover.style.left = `${Math.min(event.clientX + 14, innerWidth - 200)}px`;
      hover.style.top = `${Math.min(event.clientY + 14, innerHeight - 180)}px`;
    });
    byId("plot-map").on("plotly_unhover", () => { hover.hidden = true; });
  }
})();
