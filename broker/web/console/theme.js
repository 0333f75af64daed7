// Colours: as the system has them, or as somebody chose.

import { $, announce, keep, recall } from "./dom.js";

const THEMES = ["system", "light", "dark"];
const LABELS = { system: "as the system", light: "light", dark: "dark" };

/** Makes the button work; *onchange* is called whenever the colours are others. */
export function setUpTheme(onchange) {
  let theme = recall("theme", "system");
  const apply = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").setAttribute("aria-label", `Colours: ${LABELS[theme]}`);
    $("theme").title = `Colours: ${LABELS[theme]}`;
    onchange();
  };
  const next = () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    keep("theme", theme);
    apply();
    announce(`Colours: ${LABELS[theme]}`, { urgent: true });
  };
  $("theme").addEventListener("click", next);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
  return next;
}
