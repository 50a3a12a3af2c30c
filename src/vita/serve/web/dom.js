// Small helpers for the document.

/** The element with an id. */
export const $ = (id) => document.getElementById(id);

/** A new element. Properties whose name has a dash, "role" and "class" become attributes. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.includes("-") || name === "role" || name === "class" || name === "datetime") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A button with an icon and a name that is shown as a tooltip. */
export function iconButton(name, label, action) {
  const button = el("button", { type: "button", class: "icon small", "aria-label": label, title: label }, icon(name));
  button.addEventListener("click", action);
  return button;
}

let timer = 0;

/** Tell the user something below the question; it goes after a while. */
export function notify(text, seconds = 12) {
  clearTimeout(timer);
  $("notice").textContent = text;
  if (text) timer = setTimeout(() => notify(""), seconds * 1000);
}
