// The little that the console needs of the document. Text only: no markup is ever parsed.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/**
 * A new element.
 * @param {string} tag
 * @param {Object<string, *>} properties  DOM properties; `on…` adds a listener, and
 *   names with a dash are attributes.
 * @param {...(Node|string)} children
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.includes("-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Set the text of a node, unless it has it: the browser would lay it out again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Tell those who listen to the page; not more often than they can follow. */
let told = 0;
export function announce(text, { urgent = false } = {}) {
  const now = performance.now();
  if (!urgent && now - told < 2000) return;
  told = now;
  say($("live"), text);
}

/** What was kept of an earlier visit. */
export function recall(name, otherwise) {
  try {
    return localStorage.getItem(`broker.console.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keep a preference for the next visit; never anything secret. */
export function keep(name, value) {
  try {
    localStorage.setItem(`broker.console.${name}`, value);
  } catch {
    // Storage is switched off or full: then not.
  }
}

/** Put text into the clipboard, and say so on the button for a moment. */
export async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => (button.textContent = label), 1200);
}
