// Tabs of code. Without JavaScript all parts stand one below the other. The choice holds for all of the page's.

/** Turns each [data-tabs] into tabs, by the pattern of the ARIA authoring practices. */
export function startTabs(t) {
  const all = [...document.querySelectorAll("[data-tabs]")].map((box, at) => build(box, at, t));
  function choose(name) {
    for (const show of all) show(name);
    try {
      sessionStorage.setItem("code", name);
    } catch {
      // storage can be disabled: the choice lasts until the page is closed
    }
  }
  for (const box of document.querySelectorAll("[data-tabs]")) {
    box.addEventListener("choose", (event) => choose(event.detail));
  }
  let before = null;
  try {
    before = sessionStorage.getItem("code");
  } catch {
    // the first tab is shown
  }
  for (const show of all) show(before);
}

function build(box, at, t) {
  const parts = [...box.children];
  const list = document.createElement("div");
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", t("Language of the code"));
  const tabs = parts.map((part, index) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.textContent = part.dataset.name;
    tab.dir = "ltr";
    tab.id = `tab-${at}-${index}`;
    part.id = `code-${at}-${index}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", part.id);
    part.setAttribute("role", "tabpanel");
    part.setAttribute("aria-labelledby", tab.id);
    part.querySelector("h3, h5").hidden = true;
    tab.addEventListener("click", () => box.dispatchEvent(new CustomEvent("choose", { detail: part.dataset.name })));
    list.append(tab);
    return tab;
  });
  list.addEventListener("keydown", (event) => {
    const forward = getComputedStyle(list).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    const back = forward === "ArrowLeft" ? "ArrowRight" : "ArrowLeft";
    const step = { [forward]: 1, [back]: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.click();
    next.focus();
  });
  box.prepend(list);
  return (name) => {
    const known = parts.some((part) => part.dataset.name === name);
    if (!known && box.dataset.chosen) return;
    box.dataset.chosen = known ? name : parts[0].dataset.name;
    parts.forEach((part, index) => {
      const isChosen = part.dataset.name === box.dataset.chosen;
      part.hidden = !isChosen;
      tabs[index].setAttribute("aria-selected", String(isChosen));
      tabs[index].tabIndex = isChosen ? 0 : -1;
    });
  };
}
