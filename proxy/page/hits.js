/* The hits: a list that follows what happens, a filter, and one hit beside it.

Rule: the list does not move under a reader. New hits are put on top while nobody is inside
the list, and counted otherwise. The filter and the open hit stand in the address.
Rule: a search is bounded in each answer, so the page goes on asking until it has a screenful,
and says how far back it has looked.
Non-rule: nothing is decoded here, no filter is read. */

import { address, get, Problem, post, text } from "./ask.js"
import { Bars } from "./bars.js"
import { begin } from "./begin.js"
import { box, copy, flash } from "./dialogs.js"
import { h, put } from "./dom.js"
import { Hit } from "./hit.js"
import { HELP, STATES, stateOf, withoutState, withState, withTime } from "./query.js"
import { row } from "./row.js"
import { clock, number, plural } from "./words.js"

const PAGE = 100
const MOST = 500
const TYPED_MS = 350
const NEWS_MS = 1_500
const COLUMNS = [
  "Received",
  "Type",
  "Page or link",
  "Events",
  "Suite",
  "Visitor",
  "State",
  "Findings",
]
const WIDE = new Set(["Events", "Suite", "Visitor"])

const narrow = matchMedia("(max-width: 1000px)")
let titles = null

export class Hits {
  constructor(app, root, url) {
    this.app = app
    this.root = root
    this.rows = new Map()
    this.order = []
    this.selected = new Set()
    this.unseen = 0
    this.isPaused = false
    this.cursor = null
    this.q = null
    this.hit = null
    this.#build()
    this.#titles()
    this.covered = () => this.#cover(this.hit !== null)
    narrow.addEventListener("change", this.covered)
    this.moved(url)
  }

  gone() {
    this.asking?.abort()
    clearTimeout(this.typing)
    clearTimeout(this.newsTimer)
    clearTimeout(this.countsTimer)
    this.bars.gone()
    narrow.removeEventListener("change", this.covered)
    this.#cover(false)
  }

  // -- the address ---------------------------------------------------------------------------

  moved(url) {
    const q = url.searchParams.get("q") ?? ""
    const id = Number(/^\/hits\/([0-9]+)$/.exec(url.pathname)?.[1] ?? 0)
    if (q !== this.q) {
      this.q = q
      if (this.box.value.trim() !== q) this.box.value = q
      this.#load()
    }
    this.#open(id)
  }

  #at(id, q = this.q) {
    return `/hits${id ? `/${id}` : ""}${q ? `?q=${encodeURIComponent(q)}` : ""}`
  }

  #filter(q, replace = false) {
    this.app.go(this.#at(0, q), replace)
  }

  // -- the parts -----------------------------------------------------------------------------

  #build() {
    this.box = h("input", {
      id: "q",
      type: "search",
      name: "q",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "page:Checkout* has:finding",
      "aria-describedby": "fault-of-q",
      oninput: () => {
        clearTimeout(this.typing)
        this.typing = setTimeout(() => this.#filter(this.box.value.trim(), true), TYPED_MS)
      },
      onkeydown: (event) => {
        if (event.key === "Escape" && !this.box.value) this.box.blur()
      },
    })
    const form = h(
      "form",
      {
        role: "search",
        class: "search",
        onsubmit: (event) => {
          event.preventDefault()
          clearTimeout(this.typing)
          this.#filter(this.box.value.trim())
        },
      },
      h("label", { for: "q", class: "unseen" }, "Filter"),
      this.box,
      h(
        "button",
        { type: "button", class: "quiet", "aria-label": "How to filter", onclick: help },
        "?",
      ),
    )
    this.faulty = h("div", { id: "fault-of-q", class: "fault-of-q" })
    this.bars = new Bars((time) => this.#filter(withTime(this.q, time)))
    this.states = h("nav", { class: "states", "aria-label": "States" })
    this.pause = h(
      "button",
      { type: "button", "aria-pressed": "false", onclick: () => this.#pause() },
      "Pause list",
    )
    this.exports = h("details", { class: "menu" })
    this.chosen = h("div", { class: "chosen", hidden: true })
    this.news = h("button", {
      type: "button",
      class: "news",
      hidden: true,
      onclick: () => this.#load(),
    })
    this.body = h("tbody")
    this.table = h(
      "table",
      { class: "hits" },
      h("caption", { class: "unseen" }, "Hits, newest first"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col", class: "pick" }, h("span", { class: "unseen" }, "Selected")),
          COLUMNS.map((name) =>
            h(
              "th",
              {
                scope: "col",
                class: `${name.split(" ")[0].toLowerCase()}${WIDE.has(name) ? " wide" : ""}`,
              },
              name,
            ),
          ),
        ),
      ),
      this.body,
    )
    this.foot = h("div", { class: "foot" })
    this.list = h("div", { class: "list" }, this.news, this.table, this.foot)
    this.pane = h("section", { class: "pane", tabindex: "-1", "aria-label": "Hit", hidden: true })
    put(
      this.root,
      h("h1", { class: "unseen" }, "Hits"),
      h(
        "div",
        { class: "above" },
        form,
        this.pause,
        this.exports,
        this.faulty,
        h("div", { class: "row" }, this.states, this.bars.element),
        this.chosen,
      ),
      h("div", { class: "split" }, this.list, this.pane),
    )
    this.body.addEventListener("click", (event) => this.#clicked(event))
    this.body.addEventListener("change", (event) => this.#picked(event.target))
  }

  async #titles() {
    if (titles) return
    titles = new Map()
    try {
      for (const rule of (await get("rules")).rules)
        titles.set(rule.id, `${rule.title}. ${rule.why}`)
    } catch {
      titles = null // then the ids stand alone
    }
  }

  // -- asking --------------------------------------------------------------------------------

  async #load(cursor = null) {
    this.asking?.abort()
    const asking = new AbortController()
    this.asking = asking
    const isMore = cursor !== null
    if (!isMore) {
      this.unseen = 0
      this.#newsShown()
      this.#exported()
      this.#counts()
    }
    this.list.setAttribute("aria-busy", "true")
    const found = []
    try {
      let page = { complete: false, cursor, searched_to_ms: null }
      do {
        page = await get("hits", { q: this.q, limit: PAGE, cursor: page.cursor }, asking.signal)
        found.push(...page.hits)
        if (!page.complete && found.length < PAGE) this.#searching(page, found.length)
      } while (!page.complete && found.length < PAGE && page.cursor !== null)
      this.cursor = page.complete ? null : page.cursor
      this.#faulted(null)
      if (isMore) this.#append(found)
      else this.#replace(found)
      this.#footed()
    } catch (error) {
      if (error.name === "AbortError") return
      if (error instanceof Problem && error.status === 400) this.#faulted(error)
      else this.#failed(error)
    } finally {
      if (this.asking === asking) this.list.removeAttribute("aria-busy")
    }
  }

  /** So that a search through many hits can be seen to go on. */
  #searching(page, count) {
    const to = page.searched_to_ms ? `, back to ${clock(page.searched_to_ms)}` : ""
    put(
      this.foot,
      h(
        "p",
        { class: "muted" },
        `Looking… ${plural(count, "hit")} so far${to} `,
        h("button", { type: "button", onclick: () => this.#stop(page) }, "Stop"),
      ),
    )
  }

  #stop(page) {
    this.asking?.abort()
    this.list.removeAttribute("aria-busy")
    this.cursor = page.cursor
    this.#footed()
  }

  #faulted(problem) {
    this.box.toggleAttribute("aria-invalid", problem !== null)
    this.table.classList.toggle("old", problem !== null)
    if (problem !== null && !this.order.length) this.table.hidden = true
    if (problem === null) {
      put(this.faulty)
      return
    }
    this.box.setAttribute("aria-invalid", "true")
    const at = (problem.column ?? 0) - 1
    put(
      this.faulty,
      at >= 0
        ? h(
            "code",
            { "aria-hidden": "true" },
            this.q.slice(0, at),
            h("mark", {}, this.q.slice(at, at + 1) || " "),
            this.q.slice(at + 1),
          )
        : null,
      h(
        "span",
        { class: "bad" },
        at >= 0 ? `Column ${at + 1}: ${problem.message}.` : `${problem.message}.`,
      ),
    )
  }

  #failed(error) {
    put(
      this.foot,
      h(
        "p",
        { class: "bad" },
        `The hits cannot be read: ${error.message}. `,
        h("button", { type: "button", onclick: () => this.#load() }, "Try again"),
      ),
    )
  }

  async #counts() {
    const of = withoutState(this.q)
    const now = stateOf(this.q)
    const show = (counts) => {
      const about = counts && !counts.complete ? "≥ " : ""
      put(
        this.states,
        ["", ...STATES].map((name) => {
          const count = counts?.[name || "total"]
          return h(
            "a",
            {
              href: this.#at(0, withState(of, name)),
              "aria-current": name === now ? "true" : null,
            },
            name ? name[0].toUpperCase() + name.slice(1) : "All",
            count === undefined ? null : h("span", { class: "muted" }, ` ${about}${number(count)}`),
          )
        }),
      )
    }
    if (this.countedOf !== of) show(null)
    else show(this.counted)
    try {
      let sum = null
      let cursor = null
      do {
        const part = await get("counts", { q: of, cursor })
        sum = added(sum, part)
        cursor = part.complete ? null : (part.cursor ?? null)
        if (withoutState(this.q) !== of) return
        if (sum.complete || this.countedOf !== of) show(sum)
      } while (cursor !== null && this.app.screen === this)
      this.counted = sum
      this.countedOf = of
      show(sum)
    } catch {
      // The faulty filter is said elsewhere.
    }
  }

  #exported() {
    const given = this.q ? { q: this.q } : {}
    const link = (form, what) =>
      h("a", { href: address(`hits.${form}`, given), download: `hits.${form}` }, what)
    put(
      this.exports,
      h("summary", { role: "button" }, "Export"),
      h(
        "div",
        {},
        link("ndjson", "NDJSON, to import again"),
        link("csv", "CSV, for a sheet"),
        link("har", "HAR, for a browser's tools"),
        h("p", { class: "muted" }, this.q ? "What this filter finds." : "Everything that is kept."),
      ),
    )
  }

  // -- rows ----------------------------------------------------------------------------------

  #replace(hits) {
    this.rows.clear()
    this.order = []
    put(this.body)
    this.selected.clear()
    this.#chosen()
    this.#append(hits)
    this.list.scrollTop = 0
  }

  #append(hits) {
    for (const hit of hits) {
      if (this.rows.has(hit.id)) continue
      this.order.push(hit.id)
      this.rows.set(hit.id, { hit, element: this.body.appendChild(this.#row(hit)) })
    }
    this.#marked()
  }

  #row(hit) {
    return row(hit, { href: this.#at(hit.id), isSelected: this.selected.has(hit.id), titles })
  }

  /** Put a hit's row anew, and leave the focus where it was. */
  #again(hit) {
    const kept = this.rows.get(hit.id)
    const hadFocus = kept.element.contains(document.activeElement)
      ? document.activeElement.tagName
      : ""
    const element = this.#row(hit)
    kept.element.replaceWith(element)
    this.rows.set(hit.id, { hit, element })
    if (hadFocus) element.querySelector(hadFocus.toLowerCase())?.focus({ preventScroll: true })
  }

  #marked() {
    for (const [id, { element }] of this.rows) {
      const isOpen = this.hit?.id === id
      element.classList.toggle("open", isOpen)
      const link = element.querySelector("a")
      if (isOpen) link.setAttribute("aria-current", "true")
      else link.removeAttribute("aria-current")
    }
  }

  #footed() {
    if (!this.order.length) {
      put(this.foot, this.q ? this.#noMatch() : this.#empty())
      this.table.hidden = true
      return
    }
    this.table.hidden = false
    put(
      this.foot,
      this.cursor === null
        ? h(
            "p",
            { class: "muted" },
            this.q ? `${plural(this.order.length, "hit")} in all` : "Nothing older is kept",
          )
        : h(
            "p",
            {},
            h("button", { type: "button", onclick: () => this.#load(this.cursor) }, "Older hits"),
          ),
    )
  }

  #noMatch() {
    return h(
      "p",
      { class: "empty" },
      "No hit matches ",
      h("code", {}, this.q),
      this.cursor === null ? ". " : " so far. ",
      this.cursor === null
        ? null
        : h(
            "button",
            { type: "button", onclick: () => this.#load(this.cursor) },
            "Look further back",
          ),
      " ",
      h("button", { type: "button", onclick: () => this.#filter("") }, "Clear"),
    )
  }

  #empty() {
    const place = h("div", { class: "empty first" })
    begin(place, this.app)
    return place
  }

  // -- live ----------------------------------------------------------------------------------

  again() {
    if (!this.isPaused) this.#load()
  }

  hits(change) {
    const newest = this.order[0] ?? 0
    const news = []
    for (const hit of change.changed) {
      if (this.hit?.id === hit.id) this.hit.changed(hit)
      if (this.rows.has(hit.id)) {
        if (!this.isPaused) this.#again(hit)
      } else if (hit.id > newest) {
        news.push(hit)
      }
    }
    this.#marked()
    if (change.new || news.length) this.#came(change, news)
    this.#soon("countsTimer", () => this.#counts())
  }

  /** Now and then while hits come, however many; a timer that each of them set anew never ends. */
  #soon(timer, what) {
    this[timer] ??= setTimeout(() => {
      this[timer] = null
      what()
    }, NEWS_MS)
  }

  #came(change, news) {
    if (this.q) {
      // Whether they match is the daemon's to say.
      this.#soon("newsTimer", () => this.#look())
    } else if (this.#isRead() || change.new > news.length) {
      this.unseen += change.new
      this.#newsShown()
      if (!this.#isRead()) this.#soon("newsTimer", () => this.#isRead() || this.#load())
    } else {
      this.#prepend(news)
    }
  }

  /** The newest matches, once more. */
  async #look() {
    const q = this.q
    try {
      const page = await get("hits", { q, limit: PAGE })
      if (q !== this.q) return
      const newest = this.order[0] ?? 0
      const news = page.hits.filter((hit) => hit.id > newest)
      if (!news.length) return
      if (this.#isRead()) {
        this.unseen = news.length
        this.#newsShown()
      } else if (news.length === page.hits.length && this.order.length) {
        this.#load()
      } else {
        this.#prepend(news)
      }
    } catch {
      // The next news ask again.
    }
  }

  #prepend(news) {
    if (!news.length) return
    if (this.order.length + news.length > MOST) {
      this.#load()
      return
    }
    const fresh = [...news].sort((a, b) => b.id - a.id)
    const elements = fresh.map((hit) => {
      const element = this.#row(hit)
      this.rows.set(hit.id, { hit, element })
      return element
    })
    this.order.unshift(...fresh.map((hit) => hit.id))
    this.body.prepend(...elements)
    for (const element of elements) element.classList.add("new")
    if (this.table.hidden) this.#footed()
  }

  /** Whether somebody is inside the list, so that it must stand still. */
  #isRead() {
    return (
      this.isPaused ||
      this.selected.size > 0 ||
      this.hit !== null ||
      this.list.scrollTop > 8 ||
      this.body.contains(document.activeElement)
    )
  }

  #newsShown() {
    this.news.hidden = this.unseen === 0
    put(this.news, `↑ ${plural(this.unseen, "new hit")}`)
  }

  #pause() {
    this.isPaused = !this.isPaused
    this.pause.setAttribute("aria-pressed", String(this.isPaused))
    if (!this.isPaused) this.#load()
  }

  // -- one hit -------------------------------------------------------------------------------

  #open(id) {
    if ((this.hit?.id ?? 0) === id) return
    this.hit = id ? new Hit(this.app, this.pane, id, () => this.#close()) : null
    this.pane.hidden = !id
    this.root.classList.toggle("one", Boolean(id))
    this.#marked()
    this.#cover(Boolean(id))
    if (!id) put(this.pane)
    else this.rows.get(id)?.element.scrollIntoView({ block: "nearest" })
  }

  /** Where the pane lies over everything, nothing below it can be reached. */
  #cover(isOpen) {
    const isBelow = isOpen && narrow.matches
    for (const one of document.querySelectorAll("header, #band, .above, .list")) one.inert = isBelow
    if (isBelow && !this.pane.contains(document.activeElement)) this.pane.focus()
  }

  #close() {
    const id = this.hit?.id
    this.app.go(this.#at(0))
    this.rows.get(id)?.element.querySelector("a").focus()
  }

  #clicked(event) {
    if (event.target.closest("a, input")) return
    if (String(getSelection())) return // somebody marks text
    const row = event.target.closest("tr")
    if (row) this.app.go(this.#at(Number(row.dataset.id)))
  }

  // -- several -------------------------------------------------------------------------------

  #picked(input) {
    const id = Number(input.closest("tr").dataset.id)
    if (input.checked) this.selected.add(id)
    else this.selected.delete(id)
    this.#chosen()
  }

  #chosen() {
    const count = this.selected.size
    this.chosen.hidden = count === 0
    if (!count) {
      put(this.chosen)
      return
    }
    const dead = [...this.selected].filter((id) => this.rows.get(id)?.hit.state === "dead")
    put(
      this.chosen,
      h("span", {}, `${plural(count, "hit")} selected`),
      h(
        "button",
        { type: "button", onclick: (event) => this.#copied(event.currentTarget) },
        "Copy as cURL",
      ),
      count === 2
        ? h("button", { type: "button", onclick: () => this.#compare() }, "Compare")
        : null,
      dead.length
        ? h(
            "button",
            { type: "button", onclick: () => this.#requeue(dead) },
            `Requeue ${number(dead.length)}`,
          )
        : null,
      h("button", { type: "button", class: "quiet", onclick: () => this.#unpick() }, "Clear"),
    )
  }

  /** The later one is shown, with what the earlier one says otherwise. */
  #compare() {
    const [earlier, later] = [...this.selected].sort((a, b) => a - b)
    this.app.go(this.#at(later))
    this.app.attempt(() => this.hit.compare(earlier))
  }

  #unpick() {
    this.selected.clear()
    for (const box of this.body.querySelectorAll("input:checked")) box.checked = false
    this.#chosen()
  }

  #copied(button) {
    return this.app.attempt(async () => {
      const all = []
      for (const id of [...this.selected].slice(0, PAGE))
        all.push((await text(`hits/${id}/curl`)).trimEnd())
      await copy(`${all.join("\n\n")}\n`, button)
    })
  }

  #requeue(ids) {
    return this.app.attempt(async () => {
      await post("hits/requeue", { ids })
      this.#unpick()
      await this.app.refresh()
      this.#load()
    })
  }

  // -- keys ----------------------------------------------------------------------------------

  key(key) {
    switch (key) {
      case "j":
      case "ArrowDown":
        return this.#step(1)
      case "k":
      case "ArrowUp":
        return this.#step(-1)
      case "Escape":
        if (this.hit) this.#close()
        else if (this.selected.size) this.#unpick()
        return true
      case "p":
        this.#pause()
        return true
      case "c":
      case "r":
      case "x":
        return this.#act(key)
      default:
        return false
    }
  }

  get #current() {
    const row = document.activeElement?.closest?.("tr[data-id]")
    return row ? Number(row.dataset.id) : (this.hit?.id ?? 0)
  }

  #step(by) {
    const at = this.order.indexOf(this.#current)
    const next = this.order[at < 0 ? 0 : Math.min(this.order.length - 1, Math.max(0, at + by))]
    if (next === undefined) return false
    const { element } = this.rows.get(next)
    element.querySelector("a").focus()
    if (this.hit) {
      this.app.go(this.#at(next), true)
      element.querySelector("a").focus()
    }
    return true
  }

  #act(key) {
    const id = this.#current
    const row = this.rows.get(id)
    if (!id) return false
    if (key === "x" && row) {
      const input = row.element.querySelector("input")
      input.checked = !input.checked
      this.#picked(input)
    } else if (key === "c") {
      this.app.attempt(async () =>
        copy(
          await text(`hits/${id}/curl`),
          this.hit ? this.pane.querySelector("button") : row.element.querySelector(".type"),
        ),
      )
    } else if (key === "r") {
      const isDead = row?.hit.state === "dead"
      this.app.attempt(async () => {
        if (isDead) await post("hits/requeue", { ids: [id] })
        else await post("forwarding/retry", { ids: [id] })
        if (isDead) this.#load()
        else if (row) flash(row.element.querySelector(".type"), "trying")
        await this.app.refresh()
      })
    }
    return true
  }
}

/** Counts of one part of the hits and of the next. */
function added(sum, part) {
  const found = { ...part }
  if (sum)
    for (const name of ["total", ...STATES]) found[name] = (sum[name] ?? 0) + (part[name] ?? 0)
  return found
}

function help() {
  box("How to filter", [
    h(
      "p",
      {},
      "Words beside each other must all hold. A word is found within a value, in any case.",
    ),
    h(
      "table",
      { class: "plain" },
      h(
        "thead",
        {},
        h("tr", {}, h("th", { scope: "col" }, "Filter"), h("th", { scope: "col" }, "Finds")),
      ),
      h(
        "tbody",
        {},
        HELP.map(([what, finds]) =>
          h("tr", {}, h("th", { scope: "row" }, h("code", {}, what)), h("td", {}, finds)),
        ),
      ),
    ),
  ])
}
