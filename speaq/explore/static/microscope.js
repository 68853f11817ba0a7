"use strict";

// The assignment microscope: every change of a knob asks for the assignment, which is matching alone.
const form = document.getElementById("microscope");
const summary = document.getElementById("summary");
const rows = document.getElementById("layers") ? [...document.getElementById("layers").children] : [];
const SVG = "http://www.w3.org/2000/svg";
let found = null; // the last answer
let asked = 0; // answers that come late are dropped

const words = { hit: "matched", extra: "among the K best", missed: "matched in training only" };

function make(name, attributes, parent, text) {
  const element = parent.namespaceURI === SVG ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

async function look() {
  const isStatic = form.elements.quality.value === "static";
  form.elements.weight.disabled = isStatic;
  form.elements.shown_weight.value = isStatic ? "–" : Number(form.elements.weight.value).toFixed(2);
  if (!form.checkValidity()) return;
  const number = ++asked;
  const query = new URLSearchParams({ image: form.dataset.image });
  for (const [key, value] of new FormData(form)) query.set(key, value);
  const response = await fetch(`${form.dataset.look}?${query}`).catch(() => null);
  const answer = response ? await response.json().catch(() => ({ error: `The server says ${response.status}.` })) : { error: "The server does not answer." };
  if (number !== asked) return;
  if (answer.error) {
    summary.textContent = answer.error;
    return;
  }
  found = answer;
  show();
}

function show() {
  const bounds = found.group_bounds;
  const [first, end] = [bounds[found.group], bounds[found.group + 1]];
  summary.textContent =
    `${found.words}: group ${found.group + 1} of ${bounds.length - 1}, queries ${first} to ${end - 1}; ` +
    `k by layer ${found.layers.map((layer) => layer.repeats).join(" ")}`;
  found.layers.forEach((layer, index) => showLayer(rows[index], layer, bounds));
  showQueries();
}

function showLayer(row, layer, bounds) {
  const list = (queries) => queries.join(", ") || "none";
  row.querySelector(".sum").textContent = layer.quality_sum === null ? "–" : layer.quality_sum.toFixed(3);
  row.querySelector(".k").textContent = layer.repeats;
  row.querySelector(".matched").textContent = list(layer.matched);
  row.querySelector(".trained").textContent = `k ${layer.as_trained.repeats}: ${list(layer.as_trained.matched)}`;
  const strip = row.querySelector(".strip");
  const count = layer.relation.length;
  strip.setAttribute("viewBox", `0 0 ${count} 1`);
  const largest = Math.max(0.01, ...(layer.quality || [1]));
  const paths = { free: "", other: "", mine: "" };
  layer.relation.forEach((relation, query) => {
    const kind = relation === null ? "free" : relation === found.triplet ? "mine" : "other";
    const height = layer.quality ? Math.max(layer.quality[query], 0) / largest : kind === "mine" ? 1 : 0.3;
    paths[kind] += `M${query} 1v${-Math.max(height, 0.02)}h1V1z`;
  });
  for (const [kind, path] of Object.entries(paths)) strip.querySelector(`.${kind}`).setAttribute("d", path);
  strip.querySelector(".border").setAttribute("d", bounds.slice(1, -1).map((bound) => `M${bound} 0V1`).join(""));
}

function chosenLayer() {
  return found.layers[Number(document.querySelector("input[name=layer]:checked").value)];
}

function showQueries() {
  const layer = chosenLayer();
  const boxes = document.getElementById("boxes");
  const list = document.getElementById("queries");
  boxes.replaceChildren();
  list.replaceChildren();
  document.getElementById("queries-title").textContent = `Queries of layer ${layer.layer}`;
  const draw = (status, query, subject, object) => {
    const group = make("g", { class: `box ${status}`, "data-query": query }, boxes);
    for (const [x1, y1, x2, y2] of [subject, object]) {
      const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
      make("rect", { class: "halo", ...place }, group);
      make("rect", { class: "stroke", ...place }, group);
    }
  };
  const statusOf = (query) =>
    layer.matched.includes(query) ? "hit" : layer.as_trained.matched.includes(query) ? "missed" : "extra";
  for (const one of [...layer.shown].reverse()) draw(statusOf(one.query), one.query, one.subject_box, one.object_box);
  draw("plain", "truth", found.subject_box, found.object_box); // on top, after the matched ones
  for (const one of layer.shown) {
    const status = statusOf(one.query);
    const button = make("button", { type: "button", class: status, "data-query": one.query }, make("li", {}, list));
    const text = make("span", {}, button, `query ${one.query} `);
    make("b", {}, text, words[status]);
    const quality = layer.quality ? `quality ${layer.quality[one.query].toFixed(3)}, ` : "";
    make("span", { class: "detail" }, button, `${quality}cost ${layer.cost[one.query].toFixed(2)}`);
    const says = [one.subject, one.predicate, one.object].map(([name, score]) => `${name} ${score.toFixed(2)}`).join(" · ");
    make("span", { class: "says" }, button, says);
  }
}

// A query under the pointer or in focus shows its boxes alone.
function light(query) {
  document.getElementById("scene").classList.toggle("one", query !== null);
  for (const box of document.querySelectorAll("#boxes [data-query]")) box.classList.toggle("on", box.dataset.query === query || box.dataset.query === "truth");
}

if (form) {
  form.addEventListener("input", look);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(look));
  for (const input of document.querySelectorAll("input[name=layer]")) input.addEventListener("change", () => found && showQueries());
  const list = document.getElementById("queries");
  const query = (event) => event.target.closest("button")?.dataset.query ?? null;
  list.addEventListener("focusin", (event) => light(query(event)));
  list.addEventListener("focusout", () => light(null));
  list.addEventListener("mouseover", (event) => light(query(event)));
  list.addEventListener("mouseout", () => light(null));
  look();
}
