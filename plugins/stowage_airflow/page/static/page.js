"use strict";

// Airflow's frame lets no link open a window or leave the frame, so Airflow's own document follows such links.
const framed = window.parent !== window;
document.documentElement.classList.toggle("framed", framed);

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[target]");
  if (!framed || !link || event.defaultPrevented) return;
  event.preventDefault();
  const outside = window.parent.document.createElement("a");
  outside.href = link.href;
  if (link.target === "_blank" || event.ctrlKey || event.metaKey || event.shiftKey) {
    outside.target = "_blank";
    outside.rel = "noopener";
  }
  outside.click();
});

// What scrolls can be focused, to be scrolled by keys; what does not would be a stop for nothing.
const sizes = new ResizeObserver(() => {
  for (const region of document.querySelectorAll(".scroll")) {
    if (region.scrollWidth > region.clientWidth || region === document.activeElement) region.tabIndex = 0;
    else region.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".scroll, .scroll > table").forEach((part) => sizes.observe(part));

// Two recipes make a comparison; the server says so as well.
const compare = document.getElementById("compare");
if (compare) {
  const boxes = [...compare.querySelectorAll("input[type=checkbox]")];
  const button = compare.querySelector("button");
  const said = document.getElementById("chosen");
  const count = () => {
    const chosen = boxes.filter((box) => box.checked).length;
    button.setAttribute("aria-disabled", String(chosen !== 2));
    said.textContent = chosen === 2 || chosen === 0 ? "" : chosen === 1 ? "Choose one more." : "Choose only two.";
    return chosen;
  };
  compare.addEventListener("change", count);
  compare.addEventListener("submit", (event) => {
    if (count() === 2) return;
    event.preventDefault();
    said.textContent = "Choose two recipes to compare.";
  });
  window.addEventListener("pageshow", count);
}
