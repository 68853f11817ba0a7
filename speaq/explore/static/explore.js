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
          const slow = old.querySelector("#importance");
          if (slow) found.querySelector("[data-load]")?.replaceWith(slow);
          old.replaceWith(found);
        }
      }
    }
    if (document.querySelector("[data-live]")) setTimeout(renew, 1000 * live.dataset.live);
  };
  setTimeout(renew, 1000 * live.dataset.live);
}
