/* Overview: is it working, how far behind is it, and what wants a person.

Rule: one figure answers first: the age of the oldest waiting hit. */

import { get } from "./ask.js"
import { Chart } from "./chart.js"
import { h, put } from "./dom.js"
import { release } from "./held.js"
import { bytes, moment, number, plural, sized, span } from "./words.js"

const AGAIN_MS = 5_000
const SERIES_MS = 60_000

export class Overview {
  constructor(app, root) {
    this.app = app
    this.figures = h("dl", { class: "figures" })
    this.wanting = h("div", {})
    this.table = h("div", {})
    this.chart = new Chart()
    this.config = null
    this.delivered = null
    this.loadedAt = 0
    put(
      root,
      h("h1", { class: "unseen" }, "Overview"),
      this.figures,
      this.wanting,
      this.chart.element,
      h("h2", {}, "Report suites and datastreams"),
      this.table,
    )
    get("config")
      .then((said) => {
        this.config = said.values
        this.status(app.status)
      })
      .catch(() => {})
    this.again()
    this.timer = setInterval(() => this.#series(), SERIES_MS)
  }

  gone() {
    clearInterval(this.timer)
    clearTimeout(this.later)
    this.chart.gone()
  }

  moved() {}

  again() {
    this.#series()
    this.#suites()
  }

  hits() {
    clearTimeout(this.later)
    const wait = Math.max(0, this.loadedAt + AGAIN_MS - Date.now())
    this.later = setTimeout(() => this.#suites(), wait)
  }

  status(status) {
    if (!status) return
    this.last = status
    const room = this.#room(status)
    const figures = [
      ["Waiting", number(status.waiting), "/hits?q=is%3Awaiting"],
      ["Oldest", status.waiting ? span(status.oldest_waiting_seconds) : "–", null],
      [
        "Delivered, 24 h",
        this.delivered === null ? "–" : number(this.delivered),
        "/hits?q=state%3Adelivered",
      ],
      ["Dead letters", number(status.dead), "/dead", status.dead ? "bad" : null],
      ...(status.held ? [["Held", number(status.held), "/hits?q=state%3Aheld", "warn"]] : []),
      ...(status.refused ? [["Refused", number(status.refused), "/health", "bad"]] : []),
      room,
    ]
    put(
      this.figures,
      figures.map(([name, value, link, mood]) =>
        h(
          "div",
          { class: mood },
          h("dt", {}, name),
          h("dd", {}, link ? h("a", { href: link }, value) : value),
        ),
      ),
    )
    this.#wanting(status)
  }

  #room(status) {
    const queue = this.config?.queue
    const hits = Number(queue?.max_hits?.value)
    const size = sized(queue?.max_bytes?.value)
    const free = status.free_disk_bytes ? `${bytes(status.free_disk_bytes)} free` : "–"
    if (!hits) return ["Disk", free, null]
    let left = Math.max(0, hits - status.waiting)
    if (size && status.waiting_bytes) {
      left = Math.min(
        left,
        Math.max(0, size - status.waiting_bytes) / (status.waiting_bytes / status.waiting),
      )
    }
    const about = left > 1_000 ? Math.floor(left / 1_000) * 1_000 : Math.floor(left)
    return ["Room for", `~${number(about)} more`, null, left < hits / 10 ? "warn" : null]
  }

  #wanting(status) {
    const held = Object.entries(status.held_suites ?? {})
    const open = [...this.wanting.querySelectorAll("details[open]")].map((one) => one.dataset.of)
    put(
      this.wanting,
      held.length
        ? h(
            "ul",
            { class: "wanting" },
            held.map(([suite, one]) =>
              h(
                "li",
                {},
                h("span", { class: "state held" }, h("i", { "aria-hidden": "true" }, "‖"), "held"),
                h(
                  "span",
                  {},
                  h("code", {}, suite),
                  ` has ${plural(one.hits, "hit")} waiting for you: ${one.reason} `,
                ),
                h(
                  "a",
                  {
                    href: `/hits?q=${encodeURIComponent(`state:held suite:${suite.split(",")[0]}`)}`,
                  },
                  "Show them",
                ),
                release(suite.split(","), one.reason),
              ),
            ),
          )
        : null,
    )
    for (const one of this.wanting.querySelectorAll("details"))
      one.open = open.includes(one.dataset.of)
  }

  async #series() {
    try {
      const series = await get("series", { window: "24h" })
      this.delivered = series.points.reduce((sum, one) => sum + (one.delivered ?? 0), 0)
      this.chart.show(series)
      this.status(this.last ?? this.app.status)
    } catch {
      this.chart.show(null)
    }
  }

  async #suites() {
    this.loadedAt = Date.now()
    let suites
    try {
      suites = (await get("suites")).suites
    } catch (error) {
      if (!this.table.firstChild)
        put(this.table, h("p", { class: "muted" }, `They cannot be shown: ${error.message}.`))
      return
    }
    if (!suites.length) {
      put(
        this.table,
        h(
          "p",
          { class: "muted" },
          "None yet: the first hit names the first one. ",
          h("a", { href: "/hits" }, "How to send one"),
        ),
      )
      return
    }
    const heads = [
      "Suite",
      "Timestamps",
      "Waiting",
      "Oldest",
      "Received, 24 h",
      "Delivered, 24 h",
      "Dead",
      "Findings",
    ]
    put(
      this.table,
      h(
        "table",
        { class: "suites" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            heads.map((name, at) => h("th", { scope: "col", class: column(at) }, name)),
          ),
        ),
        h(
          "tbody",
          {},
          suites.map((one) => this.#suite(one)),
        ),
      ),
    )
  }

  #suite(one) {
    const find = (more) => `/hits?q=${encodeURIComponent(`suite:"${one.suite}"${more}`)}`
    const count = (value, more) => (value ? h("a", { href: find(more) }, number(value)) : "–")
    const isEvents = one.protocol === "edge"
    const isUnknown = !isEvents && one.timestamps === "unknown"
    const findings = Object.entries(one.findings ?? {})
    return h(
      "tr",
      {},
      h(
        "th",
        { scope: "row" },
        h("a", { href: find("") }, one.suite),
        isEvents
          ? h("small", {}, " datastream")
          : one.listed === false
            ? h("small", {}, " not listed")
            : null,
      ),
      h(
        "td",
        { class: "wide" },
        isUnknown
          ? h(
              "span",
              { class: "warn", title: `Set [suites.known.${one.suite}] timestamps` },
              "unknown ⚠",
            )
          : isEvents
            ? "–"
            : one.timestamps,
      ),
      h("td", { class: "count" }, count(one.waiting, " is:waiting")),
      h(
        "td",
        { class: "count wide" },
        one.oldest_ms ? moment(one.oldest_ms, span((Date.now() - one.oldest_ms) / 1_000)) : "–",
      ),
      h("td", { class: "count wide" }, count(one.received_24h, " newer:1d")),
      h("td", { class: "count wide" }, count(one.delivered_24h, " state:delivered")),
      h(
        "td",
        { class: "count" },
        one.dead ? h("a", { class: "bad", href: find(" state:dead") }, number(one.dead)) : "–",
      ),
      h(
        "td",
        { class: "rest" },
        findings.length
          ? findings.map(([rule, times], at) => [
              at ? " " : "",
              h("a", { href: find(` rule:${rule}`) }, `${rule} ×${number(times)}`),
            ])
          : "–",
      ),
    )
  }
}

const column = (at) =>
  ["", "wide", "count", "count wide", "count wide", "count wide", "count", "rest"][at] || null
