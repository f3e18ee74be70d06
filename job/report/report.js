"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const read = (id) => JSON.parse(at(id).textContent);

  const cards = [...document.querySelectorAll(".card")];
  const filter = () => {
    const wanted = at("class").value;
    const text = at("text").value.toLowerCase();
    for (const card of cards) {
      const classes = JSON.parse(card.dataset.classes);
      const ofClass = wanted === "" || (wanted === " " ? classes.length === 0 : classes.includes(wanted));
      const words = card.querySelector(".name").textContent + " " + card.querySelector(".reason").textContent;
      card.hidden = !(ofClass && words.toLowerCase().includes(text));
    }
    at("shown").textContent = `${cards.filter((card) => !card.hidden).length} picks`;
  };

  if (cards.length) {
    at("filters").addEventListener("input", filter);
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    at("boxes").addEventListener("input", () => document.body.classList.toggle("no-boxes", !at("boxes").checked));

    let open = null;
    const enlarge = (card) => {
      open = card;
      const copies = [".picture", "h3", ".reason", ".facts", ".seen"].map((each) => card.querySelector(each));
      at("large-content").replaceChildren(...copies.filter(Boolean).map((each) => each.cloneNode(true)));
      const picture = at("large-content").querySelector(".picture");
      const [width, height] = (picture.style.aspectRatio || "4 / 3").split("/").map(Number);
      picture.style.width = `min(100%, ${(66 * width) / height}vh)`;
      if (!at("large").open) at("large").showModal();
    };
    const step = (by) => {
      const shown = cards.filter((card) => !card.hidden);
      if (shown.length) enlarge(shown[(shown.indexOf(open) + by + shown.length) % shown.length]);
    };
    for (const card of cards) card.querySelector("button").addEventListener("click", () => enlarge(card));
    at("before").addEventListener("click", () => step(-1));
    at("after").addEventListener("click", () => step(1));
    at("large").addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    at("large").addEventListener("close", () => open && open.querySelector("button").focus());
  }

  const figures = read("figures");
  const colors = () => {
    const style = getComputedStyle(document.body);
    const [text, line] = ["--text", "--line"].map((each) => style.getPropertyValue(each).trim());
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
    const hover = at("hover");
    at("plot-map").on("plotly_hover", ({ points, event }) => {
      const row = points[0].customdata;
      hover.querySelector("img").src = thumbnails[row];
      hover.querySelector(".name").textContent = names[row];
      hover.hidden = false;
      hover.style.left = `${Math.min(event.clientX + 14, innerWidth - 200)}px`;
      hover.style.top = `${Math.min(event.clientY + 14, innerHeight - 180)}px`;
    });
    at("plot-map").on("plotly_unhover", () => { hover.hidden = true; });
  }
})();
