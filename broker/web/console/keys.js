// Single keys for what is done often, and the overlay that lists them.

import { $, el, keep, recall } from "./dom.js";

const WORDS = { " ": "Space", ArrowDown: "↓", ArrowUp: "↑", Escape: "Esc" };

/**
 * @param {Array<{keys: string[], what: string, run: function(string): *, always?: boolean}>} bindings
 *   `run` gets the key; false: it does nothing now. `always`: also where single keys are
 *   switched off, and inside of fields.
 */
export function setUpKeys(bindings) {
  const help = $("help");
  const toggleHelp = () => (help.open ? help.close() : help.showModal());
  const all = [...bindings, { keys: ["?"], what: "these keys", run: toggleHelp }];
  $("help-open").addEventListener("click", toggleHelp);
  $("help-keys").replaceChildren(
    ...all.map(({ keys, what }) => {
      const caps = keys.flatMap((key) => [el("kbd", { textContent: WORDS[key] ?? key }), " "]);
      return el("div", {}, el("dt", {}, ...caps), el("dd", { textContent: what }));
    }),
  );
  // Who speaks to the computer, or leans on the keyboard, can switch them off.
  const on = $("keys-on");
  on.checked = recall("keys", "on") === "on";
  on.addEventListener("change", () => keep("keys", on.checked ? "on" : "off"));

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const binding = all.find(({ keys }) => keys.includes(event.key));
    if (binding === undefined || help.open) return;
    const inField = event.target.closest?.("input, select, textarea, [contenteditable]");
    if ((inField || !on.checked) && !binding.always) return;
    if (binding.run(event.key) !== false) event.preventDefault();
  });
}
