/* What the keys do.

Rule: silent while somebody types, while a box is open, and beside Ctrl, Alt and Meta; can be
turned off. All that a key does can be done without it.
Source: WCAG 2.1.4, "Character Key Shortcuts". */

import { box } from "./dialogs.js"
import { h } from "./dom.js"

const KEPT = "trackoffline.keys"
const PLACES = { o: "/", h: "/hits", d: "/dead", s: "/health" }
const MEANINGS = [
  ["/", "search"],
  ["j k", "next, previous hit"],
  ["Enter", "open the hit"],
  ["Esc", "close it"],
  ["c", "copy the hit as a cURL command"],
  ["r", "try to deliver now; a dead letter goes back into the queue"],
  ["x", "select the hit"],
  ["p", "pause the list, and let it go on"],
  ["g o, g h, g d, g s", "Overview, Hits, Dead letters, Health"],
  ["?", "this help"],
]

export class Keys {
  constructor(app) {
    this.app = app
    this.isGoing = false
  }

  get areOn() {
    try {
      return localStorage.getItem(KEPT) !== "off"
    } catch {
      return true
    }
  }

  pressed(event) {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return
    if (document.querySelector("dialog[open]")) return
    if (event.target.closest("input:not([type=checkbox]), textarea, select")) return
    if (event.key === "Escape") {
      const menu = document.querySelector("details.menu[open]")
      if (menu) {
        menu.open = false
        menu.querySelector("summary").focus()
        return
      }
      this.app.screen?.key?.("Escape")
      return
    }
    if (!this.areOn || this.app.isLocked) return
    const wasGoing = this.isGoing
    this.isGoing = event.key === "g"
    if (wasGoing && PLACES[event.key]) this.app.go(PLACES[event.key])
    else if (event.key === "?") this.help()
    else if (event.key === "/") this.#search()
    else if (!this.app.screen?.key?.(event.key)) return
    event.preventDefault()
  }

  #search() {
    if (!location.pathname.startsWith("/hits")) this.app.go("/hits")
    document.getElementById("q")?.focus()
  }

  help() {
    const on = h("input", { type: "checkbox", id: "keys-on", checked: this.areOn })
    on.addEventListener("change", () => {
      try {
        localStorage.setItem(KEPT, on.checked ? "on" : "off")
      } catch {
        // then they stay on
      }
    })
    box("Keys", [
      h(
        "table",
        { class: "plain" },
        h(
          "thead",
          {},
          h("tr", {}, h("th", { scope: "col" }, "Key"), h("th", { scope: "col" }, "Does")),
        ),
        h(
          "tbody",
          {},
          MEANINGS.map(([key, does]) =>
            h("tr", {}, h("th", { scope: "row" }, h("kbd", {}, key)), h("td", {}, does)),
          ),
        ),
      ),
      h("p", {}, on, h("label", { for: "keys-on" }, " These keys are on")),
    ])
  }
}
