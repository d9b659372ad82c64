"use strict";
const theme = document.getElementById("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : system.matches;
}
function nameTheme() { theme.textContent = isDark() ? "Light theme" : "Dark theme"; } // what a click does
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
system.addEventListener("change", nameTheme);
nameTheme();

// A button of a figure shows and hides its series there, and its rows in the tables of the section.
function update(section) {
  for (const figure of section.querySelectorAll("figure")) {
    const off = new Set();
    for (const button of figure.querySelectorAll("button[data-filter]")) {
      if (button.getAttribute("aria-pressed") === "false") off.add(button.dataset.filter);
    }
    const chips = figure.querySelector("button[data-chips]");
    const noChips = chips !== null && chips.getAttribute("aria-pressed") === "false";
    for (const mark of figure.querySelectorAll("svg [data-series]")) {
      const hidden = off.has(mark.dataset.series) || (noChips && mark.classList.contains("chip"));
      mark.classList.toggle("off", hidden);
    }
  }
  const buttons = [...section.querySelectorAll("button[data-filter]")];
  for (const row of section.querySelectorAll("tr[data-series]")) {
    const own = buttons.filter((button) => button.dataset.filter === row.dataset.series);
    row.classList.toggle("off", own.length > 0 && own.every((b) => b.getAttribute("aria-pressed") === "false"));
  }
}
for (const button of document.querySelectorAll("button[data-filter], button[data-chips]")) {
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!pressed));
    update(button.closest("section"));
  });
}
