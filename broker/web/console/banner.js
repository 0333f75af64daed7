// What stands over the list while somebody has to decide something.

import { $, el } from "./dom.js";

/** Show a sentence with buttons: `actions` is a list of [label, function]. */
export function showBanner(text, actions = [], tone = "bad") {
  const buttons = actions.map(([label, run]) => el("button", { type: "button", textContent: label, onclick: run }));
  fill(tone, el("p", { textContent: text }), ...buttons);
}

/**
 * Ask for a token. It goes to *use* and nowhere else: the field has no name, the form no
 * target, and the browser is asked to remember nothing.
 */
export function askForToken(text, label, use, tone = "warn") {
  const field = el("input", {
    type: "password", autocomplete: "off", spellcheck: false, required: true,
    placeholder: "Token", "aria-label": "Token", "data-1p-ignore": "", "data-lpignore": "true",
  });
  const onsubmit = (event) => {
    event.preventDefault();
    const token = field.value.trim();
    field.value = "";
    if (token) use(token);
  };
  const form = el("form", { autocomplete: "off", onsubmit }, field, el("button", { type: "submit", textContent: label }));
  fill(tone, el("p", { textContent: text }), form);
  field.focus();
}

export function hideBanner() {
  $("banner").hidden = true;
  $("banner").replaceChildren();
}

function fill(tone, ...children) {
  $("banner").dataset.tone = tone;
  $("banner").replaceChildren(...children);
  $("banner").hidden = false;
}
