// Applies the theme chosen earlier, or else the system's. It runs before the page is drawn.
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function remembered() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // storage can be disabled: the system's theme applies
  }
}

function show(theme) {
  root.dataset.theme = theme ?? (system.matches ? "dark" : "light");
}

show(remembered());
system.addEventListener("change", () => show(remembered()));
addEventListener("DOMContentLoaded", () => {
  const button = document.querySelector("button.theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    show(root.dataset.theme === "dark" ? "light" : "dark");
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // storage is not available: the choice lasts until the page is closed
    }
  });
  for (const link of document.querySelectorAll("[data-keep-place]")) {
    link.addEventListener("click", () => (link.hash = location.hash));
  }
});
