"use strict";
// The gallery: filters, the enlarged pick, and rejected picks.
const byId = (id) => document.getElementById(id);
const read = (id) => JSON.parse(byId(id).textContent);

const gallery = (() => {
  const cards = [...document.querySelectorAll(".card")];
  const cardOf = new Map(cards.map((card) => [Number(card.dataset.rank), card]));
  const listeners = [];
  let onMap = null; // ranks of the picks in the box on the map
  let enlarged = null;

  const filter = () => {
    const wantedClass = byId("class").value;
    const text = byId("text").value.toLowerCase();
    for (const card of cards) {
      const classes = JSON.parse(card.dataset.classes);
      const hasClass = wantedClass === "" || (wantedClass === " " ? classes.length === 0 : classes.includes(wantedClass));
      const words = `${card.querySelector(".name").textContent} ${card.querySelector(".reason").textContent}`;
      const isInBox = onMap === null || onMap.has(Number(card.dataset.rank));
      card.hidden = !(hasClass && isInBox && words.toLowerCase().includes(text));
    }
    const count = cards.filter((card) => !card.hidden).length;
    byId("shown").textContent = `${count} ${count === 1 ? "pick" : "picks"}`;
    byId("clear-map").hidden = onMap === null;
  };
  const showOnly = (ranks) => {
    onMap = ranks;
    filter();
  };
  const showConfident = () => {
    const lowest = Number(byId("confidence").value);
    byId("lowest").textContent = lowest.toFixed(2);
    for (const box of document.querySelectorAll(".box:not(.deciding)")) box.hidden = Number(box.dataset.score) < lowest;
  };

  const enlarge = (card) => {
    enlarged = card;
    const picture = card.querySelector(".picture").cloneNode(true);
    const words = ["h3", ".reason", ".facts", ".detections"].map((selector) => card.querySelector(selector));
    const text = document.createElement("div");
    text.append(...words.filter(Boolean).map((element) => element.cloneNode(true)));
    byId("large-content").replaceChildren(picture, text);
    const [width, height] = (picture.style.aspectRatio || "4 / 3").split("/").map(Number);
    picture.style.width = `min(100%, ${(78 * width) / height}vh)`;
    const boxes = [...picture.querySelectorAll(".box")];
    for (const item of text.querySelectorAll(".detections li[data-box]")) {
      const box = boxes[Number(item.dataset.box)];
      const light = (on) => picture.classList.toggle("lit", on) + box.classList.toggle("lit", on);
      item.addEventListener("pointerenter", () => light(true));
      item.addEventListener("pointerleave", () => light(false));
    }
    showRejected();
    if (!byId("large").open) byId("large").showModal();
  };
  const step = (offset) => {
    const shown = cards.filter((card) => !card.hidden);
    if (shown.length) enlarge(shown[(shown.indexOf(enlarged) + offset + shown.length) % shown.length]);
  };

  // Rejected picks, which the browser remembers if it may.
  const lines = read("lines");
  const storeName = `coralpick-rejected-${lines.run}`;
  const recall = () => {
    try { return JSON.parse(localStorage.getItem(storeName)) || []; } catch { return []; }
  };
  const rejected = new Set(recall().filter((rank) => cardOf.has(rank)));
  const showRejected = () => {
    for (const [rank, card] of cardOf) {
      card.classList.toggle("rejected", rejected.has(rank));
      card.querySelector(".reject").setAttribute("aria-pressed", String(rejected.has(rank)));
    }
    if (enlarged) byId("large-reject").setAttribute("aria-pressed", String(rejected.has(Number(enlarged.dataset.rank))));
    byId("rejected").textContent = rejected.size ? `${rejected.size} ${rejected.size === 1 ? "pick is" : "picks are"} rejected:` : "";
    byId("save-rejected").hidden = byId("replace").hidden = rejected.size === 0;
  };
  const reject = (card) => {
    const rank = Number(card.dataset.rank);
    if (!rejected.delete(rank)) rejected.add(rank);
    try { localStorage.setItem(storeName, JSON.stringify([...rejected])); } catch { /* a page from a disk may not be allowed to */ }
    showRejected();
  };
  const save = (name, type, isKept) => {
    const isRejected = name === "rejected.txt";
    const kept = lines[type].filter((_, rank) => (rank === 0 ? !isRejected : isKept(rank)));
    const text = (isRejected ? lines.rejected : []).concat(kept).join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  if (cards.length) {
    byId("filters").addEventListener("input", filter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("boxes").addEventListener("input", () => document.body.classList.toggle("no-boxes", !byId("boxes").checked));
    byId("confidence").addEventListener("input", showConfident);
    byId("clear-map").addEventListener("click", () => listeners.forEach((listener) => listener()));
    for (const card of cards) {
      card.querySelector(".enlarge").addEventListener("click", () => enlarge(card));
      card.querySelector(".reject").addEventListener("click", () => reject(card));
    }
    byId("large-reject").addEventListener("click", () => reject(enlarged));
    byId("save-txt").addEventListener("click", () => save("selected.txt", "txt", (rank) => !rejected.has(rank)));
    byId("save-csv").addEventListener("click", () => save("selected.csv", "csv", (rank) => !rejected.has(rank)));
    byId("save-rejected").addEventListener("click", () => save("rejected.txt", "txt", (rank) => rejected.has(rank)));
    showRejected();
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    byId("large").addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
      if (event.key === "x") reject(enlarged);
    });
    byId("large").addEventListener("close", () => enlarged && enlarged.querySelector(".enlarge").focus());
  }
  return { cardOf, enlarge, showOnly, current: () => enlarged, onClear: (f) => listeners.push(f) };
})();
