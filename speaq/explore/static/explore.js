"use strict";

// j, k and the arrows follow the links to the next and the previous page or image.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.target.closest("input, select, textarea, .scroll")) return;
  const rel = { j: "next", ArrowRight: "next", k: "prev", ArrowLeft: "prev" }[event.key];
  const link = rel && document.querySelector(`a[rel=${rel}]`);
  if (link) {
    event.preventDefault();
    link.click();
  }
});

// What is not asked for stays out of the address.
document.querySelector("form.filter")?.addEventListener("formdata", (event) => {
  for (const [name, value] of [...event.formData]) if (!value) event.formData.delete(name);
});

// A triplet under the pointer or in focus shows its boxes, its words in the graph, and its counterpart.
const panels = document.querySelector(".panels");
if (panels) {
  const light = (button) => {
    for (const element of panels.querySelectorAll(".on")) element.classList.remove("on");
    for (const section of panels.children) section.classList.remove("some");
    if (!button) return;
    const partner = panels.querySelector(`button[data-triplet="${button.dataset.partner}"]`);
    for (const one of [button, partner]) {
      if (!one) continue;
      one.closest("section").classList.add("some");
      for (const element of panels.querySelectorAll(`[data-triplet="${one.dataset.triplet}"]`)) element.classList.add("on");
      for (const end of one.dataset.ends.split(" ")) {
        for (const element of panels.querySelectorAll(`[data-box="${end}"]`)) element.classList.add("on");
      }
    }
  };
  const triplet = (event) => event.target.closest("button[data-triplet]");
  panels.addEventListener("focusin", (event) => light(triplet(event)));
  panels.addEventListener("focusout", () => light(null));
  panels.addEventListener("mouseover", (event) => { if (triplet(event)) light(triplet(event)); });
  panels.addEventListener("mouseout", () => light(document.activeElement.closest("button[data-triplet]")));
}

// The part of a page that takes long, put in when it is there.
const parts = new DOMParser();
const part = async (address, id) => {
  const answer = await fetch(address, { headers: { Accept: "text/html" } });
  return answer.ok ? parts.parseFromString(await answer.text(), "text/html").getElementById(id) : null;
};
const load = async () => {
  for (const place of document.querySelectorAll("[data-load]")) {
    const address = place.dataset.load;
    const found = await part(address, address.split("/").at(-1)).catch(() => null);
    if (found) place.replaceWith(found);
  }
};
load();

// How a reader wants pages is remembered.
for (const box of document.querySelectorAll("input[data-keep]")) {
  try {
    box.checked = (localStorage.getItem(box.id) ?? "yes") === "yes";
    box.addEventListener("change", () => localStorage.setItem(box.id, box.checked ? "yes" : "no"));
  } catch { /* a browser that keeps nothing */ }
}

// Predicted triplets below a score are not drawn. The scale is finer where scores are low, as most are.
const slider = document.querySelector("#score input");
if (slider) {
  const section = slider.closest("section");
  const lines = [...section.querySelectorAll("button[data-score]")];
  const most = Math.max(0, ...lines.map((line) => Number(line.dataset.score)));
  let asked = Number(slider.dataset.score) || null; // in the address: exact, as long as nobody slides
  const least = () => asked ?? most * (slider.value / 100) ** 2;
  const draw = () => {
    const on = lines.filter((line) => Number(line.dataset.score) >= least());
    const triplets = new Set(on.map((line) => line.dataset.triplet));
    const ends = new Set(on.flatMap((line) => line.dataset.ends.split(" ")));
    for (const line of lines) line.parentElement.classList.toggle("off", !triplets.has(line.dataset.triplet));
    for (const words of section.querySelectorAll("tspan[data-triplet]")) words.classList.toggle("off", !triplets.has(words.dataset.triplet));
    for (const edge of section.querySelectorAll("[data-lines]")) edge.classList.toggle("off", !edge.dataset.lines.trim().split(" ").some((one) => triplets.has(one)));
    for (const end of section.querySelectorAll("[data-box]")) end.classList.toggle("off", !ends.has(end.dataset.box));
    section.querySelector("output").textContent = least().toFixed(3);
    section.querySelector(".drawn").textContent = `${on.length} of ${lines.length} drawn`;
  };
  const say = () => { // in the address, and where its links lead
    const set = (address) => {
      const url = new URL(address, location);
      if (least() > 0) url.searchParams.set("score", least().toFixed(4));
      else url.searchParams.delete("score");
      return url;
    };
    history.replaceState(null, "", set(location));
    for (const link of document.querySelectorAll(".pager a:not([href*=microscope])")) link.href = set(link.href);
  };
  slider.value = most ? 100 * Math.sqrt(Math.min(slider.dataset.score / most, 1)) : 0;
  slider.addEventListener("input", () => {
    asked = null;
    draw();
  });
  slider.addEventListener("change", say);
  if (lines.length) section.querySelector("#score").hidden = false;
  if (lines.length) draw();
}

// What changes while something trains is renewed, but not under the reader's hands, and not where nobody looks.
const live = document.querySelector("[data-live]");
if (live) {
  const renew = async () => {
    if (!document.hidden) {
      const answer = await fetch(location.href).catch(() => null);
      if (answer?.ok) {
        const now = parts.parseFromString(await answer.text(), "text/html");
        for (const old of document.querySelectorAll("[data-live]")) {
          if (old.matches(":hover, :focus-within") || old.querySelector("details[open]")) continue;
          const found = now.getElementById(old.id);
          if (!found) continue;
          const slow = old.querySelector("#importance:has(svg)"); // it changes little, and takes seconds
          if (slow) found.querySelector("[data-load]")?.replaceWith(slow);
          old.replaceWith(found);
        }
        load();
      }
    }
    if (document.querySelector("[data-live]")) setTimeout(renew, 1000 * live.dataset.live);
  };
  setTimeout(renew, 1000 * live.dataset.live);
}
