/* Dead letters, by reason: what failed for good, why, and what to do about it.

Rule: nothing is discarded without its number typed back and a copy offered; the list stands
still while one of its groups is open.
Non-rule: a reason and its next step are the daemon's words. */

import { address, get, post } from "./ask.js"
import { discardable } from "./dialogs.js"
import { h, put } from "./dom.js"
import { quoted } from "./query.js"
import { moment, number, plural } from "./words.js"

const SHOWN = 20

export class Dead {
  constructor(app, root) {
    this.app = app
    this.open = new Map()
    this.place = h("div", { class: "groups" })
    this.count = null
    put(
      root,
      h("h1", {}, "Dead letters"),
      h(
        "p",
        { class: "muted" },
        "Hits that Adobe refused for good, or that it would drop. They are kept, and never sent again unless you say so.",
      ),
      this.place,
    )
    this.again()
  }

  gone() {}

  moved() {}

  status(status) {
    // While a group is open the list stands still; the number above still counts.
    if (this.count !== null && status.dead !== this.count && !this.open.size) this.again()
  }

  async again() {
    try {
      const { groups, complete } = await get("dead/groups")
      this.count = groups.reduce((sum, one) => sum + one.hits, 0)
      this.about = complete === false ? "≥ " : ""
      this.#show(merged(groups))
    } catch (error) {
      put(
        this.place,
        h(
          "p",
          { class: "bad" },
          `They cannot be read: ${error.message}. `,
          h("button", { type: "button", onclick: () => this.again() }, "Try again"),
        ),
      )
    }
  }

  #show(groups) {
    if (!groups.length) {
      put(this.place, h("p", { class: "empty" }, "Nothing has failed."))
      return
    }
    const heads = ["Reason", "Hits", "Suites", "First", "Last", "Next step"]
    const all = h(
      "div",
      { class: "buttons" },
      h(
        "button",
        { type: "button", onclick: () => this.#done(() => post("hits/requeue", { all: true })) },
        "Requeue all",
      ),
      h(
        "a",
        {
          class: "button",
          href: address("hits.ndjson", { q: "state:dead" }),
          download: "dead.ndjson",
        },
        "Export all",
      ),
    )
    put(
      this.place,
      groups.length > 1 ? all : null,
      h(
        "table",
        { class: "dead-groups" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            heads.map((name) =>
              h(
                "th",
                {
                  scope: "col",
                  class: { Hits: "count", Suites: "wide", First: "wide", Last: "wide" }[name],
                },
                name,
              ),
            ),
          ),
        ),
        groups.map((group) => this.#group(group)),
      ),
    )
  }

  #group(group) {
    const q = group.q ?? `state:dead reason:${quoted(group.reason)}`
    const isOpen = this.open.has(group.reason)
    const inside = h("td", { colspan: "6", class: "inside" })
    const row = h("tr", { hidden: !isOpen }, inside)
    const toggle = h(
      "button",
      {
        type: "button",
        class: "toggle",
        "aria-expanded": String(isOpen),
        onclick: () => {
          const opens = !this.open.has(group.reason)
          if (opens) this.open.set(group.reason, true)
          else this.open.delete(group.reason)
          toggle.setAttribute("aria-expanded", String(opens))
          row.hidden = !opens
          if (opens) this.#letters(inside, q)
        },
      },
      group.reason,
    )
    if (isOpen) this.#letters(inside, q)
    return h(
      "tbody",
      {},
      h(
        "tr",
        { class: "group" },
        h("th", { scope: "row" }, toggle),
        h("td", { class: "count" }, `${this.about}${number(group.hits)}`),
        h("td", { class: "wide" }, group.suites.join(", ")),
        h("td", { class: "wide" }, moment(group.first_ms)),
        h("td", { class: "wide" }, moment(group.last_ms)),
        h(
          "td",
          {},
          h("p", {}, group.next_step),
          h(
            "div",
            { class: "buttons" },
            h(
              "button",
              { type: "button", onclick: () => this.#requeue(q) },
              `Requeue ${number(group.hits)}`,
            ),
            h(
              "a",
              { class: "button", href: address("hits.ndjson", { q }), download: "dead.ndjson" },
              "Export",
            ),
            h(
              "button",
              { type: "button", class: "danger", onclick: () => this.#discard(q, group.hits) },
              "Discard…",
            ),
          ),
        ),
      ),
      row,
    )
  }

  async #letters(place, q) {
    put(place, h("p", { class: "muted" }, "…"))
    try {
      const page = await get("hits", { q, limit: SHOWN })
      const all = `/hits?q=${encodeURIComponent(q)}`
      put(
        place,
        h(
          "ul",
          { class: "letters" },
          page.hits.map((hit) =>
            h(
              "li",
              {},
              moment(hit.received_ms),
              " ",
              h(
                "a",
                { href: `/hits/${hit.id}?q=${encodeURIComponent(q)}` },
                hit.title || "(no name)",
              ),
              h(
                "span",
                { class: "muted" },
                ` ${hit.suites.join(", ")}`,
                hit.tries ? ` · ${plural(hit.tries, "try", "tries")}` : "",
              ),
            ),
          ),
        ),
        h(
          "p",
          {},
          h("a", { href: all }, page.complete ? "Show them among the hits" : "Show all of them"),
        ),
      )
    } catch (error) {
      put(place, h("p", { class: "bad" }, `${error.message}.`))
    }
  }

  #requeue(q) {
    return this.#done(() => post("hits/requeue", { q }))
  }

  async #discard(q, count) {
    if (await discardable(count, address("hits.ndjson", { q }))) {
      await this.#done(() => post("hits/discard", { q, expect_count: count }))
    }
  }

  async #done(what) {
    await this.app.attempt(what)
    this.open.clear()
    await this.again()
    await this.app.attempt(() => this.app.refresh())
  }
}

/** One group a reason: a filter finds reasons, and what it finds is what a button means. */
function merged(groups) {
  const found = new Map()
  for (const group of groups) {
    const before = found.get(group.reason)
    if (!before) {
      found.set(group.reason, group)
      continue
    }
    found.set(group.reason, {
      ...before,
      hits: before.hits + group.hits,
      suites: [...new Set([...before.suites, ...group.suites])],
      first_ms: Math.min(before.first_ms, group.first_ms),
      last_ms: Math.max(before.last_ms, group.last_ms),
    })
  }
  return [...found.values()]
}
