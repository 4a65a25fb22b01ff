/* Elements out of names and text.

Rule: hits are hostile input, any site can send one. What they say becomes the text of a node
or the value of an attribute that runs nothing; markup is never parsed. All elements of the
page are made here.
Non-rule: no diffing. A screen replaces the part that changed.
Source: OWASP, "DOM based XSS Prevention": safe sinks; the policy the admin port sends. */

const SVG = "http://www.w3.org/2000/svg"
const LINK = /^(\/(?!\/)|#|https:\/\/)/

/** An HTML element: attributes, `onclick` and its like, then children; what is null is left out. */
export function h(name, given = {}, ...children) {
  return filled(document.createElement(name), given, children)
}

/** The same for a drawing. */
export function s(name, given = {}, ...children) {
  return filled(document.createElementNS(SVG, name), given, children)
}

/** Put these in the place of all that the element holds. */
export function put(element, ...children) {
  element.replaceChildren(...shown(children))
  return element
}

export const $ = (id) => document.getElementById(id)

function filled(element, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue
    if (typeof value === "function") element.addEventListener(name.slice(2), value)
    else if (name === "style" || name.startsWith("on")) throw new Error(`${name} as text`)
    else if (name === "href" && !LINK.test(value)) continue
    else element.setAttribute(name, value === true ? "" : value)
  }
  element.append(...shown(children))
  return element
}

function shown(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false && child !== "")
}
