/* One hit, in Adobe's names: what is wrong with it, what became of it, and all that it says.

Rule: it stands still while it is read; when the hit changes, a mark says so.
Non-rule: no opinion of its own; findings come with their reason and Adobe's page. */

import { get, post, text } from "./ask.js"
import { copy } from "./dialogs.js"
import { h, put } from "./dom.js"
import { release } from "./held.js"
import { exact, kind, moment, number, plural, severity, span, state } from "./words.js"

const GONE =
  "It is not kept any more. Delivered hits are kept for queue.keep_delivered; one that was requeued has a new number."
const FOLDED = new Set(["technical", "retired", "hints"])

export class Hit {
  constructor(app, root, id, close) {
    this.app = app
    this.root = root
    this.id = id
    this.close = close
    put(root, h("p", { class: "muted" }, `Hit ${id}…`))
    this.load()
  }

  async load(more = {}) {
    let hit
    try {
      hit = await get(`hits/${this.id}`, more)
    } catch (error) {
      if (!this.#isOpen) return
      const why = error.status === 404 ? GONE : `${error.message}.`
      put(this.root, this.#head(`Hit ${this.id}`), h("p", { class: "bad" }, why))
      return
    }
    if (!this.#isOpen) return
    this.hit = hit
    this.isWhole = "unredacted" in more
    this.#show(hit)
  }

  /** Mark what it says otherwise than another one, or than the one before it of its visitor. */
  async compare(other = null) {
    const found = await get(`hits/${this.id}/compare`, { with: other })
    if (!this.#isOpen) return
    this.against = { ...found, isChosen: other !== null }
    this.#compared()
  }

  #compared() {
    if (!this.hit) return
    this.#show(this.hit)
    this.root.querySelector(".compare").focus({ preventScroll: true })
  }

  /** Not so when another was opened before the answer came. */
  get #isOpen() {
    return this.app.screen?.hit === this
  }

  /** The daemon says it is not as it was. */
  changed(row) {
    if (!this.hit || row.state === this.hit.state) return
    const mark = h(
      "button",
      { type: "button", class: "updated", onclick: () => this.load() },
      `Now ${row.state}: show`,
    )
    const place = this.root.querySelector(".updated")
    if (place) place.replaceWith(mark)
    else this.root.querySelector(".pane-head")?.append(mark)
  }

  #head(title, ...actions) {
    return h(
      "div",
      { class: "pane-head" },
      h("h2", {}, title),
      h(
        "div",
        { class: "actions" },
        actions,
        h(
          "button",
          {
            type: "button",
            class: "quiet close",
            "aria-label": "Close the hit",
            onclick: this.close,
          },
          "✕",
        ),
      ),
    )
  }

  #show(hit) {
    const said = hit.decoded
    const changes = new Changes(this.against?.changes ?? [])
    const wrong = new Map()
    for (const one of hit.findings) if (one.key) wrong.set(one.key, one)
    put(
      this.root,
      this.#head(said.title || hit.title || "(no name)", this.#actions(hit)),
      h(
        "p",
        { class: "about" },
        state(hit.state),
        h("span", {}, kind(hit.kind)),
        h("span", {}, "→ ", h("code", {}, hit.suites.join(", ") || "no report suite")),
        said.version ? h("span", { class: "muted" }, said.version) : null,
        h("span", { class: "muted" }, `hit ${hit.id}`),
        hit.ambiguous ? h("span", { class: "warn" }, "may have reached Adobe twice") : null,
      ),
      this.#findings(hit.findings),
      hit.state === "held" ? release(hit.suites, hit.reason) : null,
      this.#against(),
      this.#timeline(hit),
      this.#visitor(said.identities),
      this.#events(said.events),
      this.#products(said.products),
      said.groups.map((group) => this.#group(group, wrong, changes)),
      changes.groups(said.groups).map((group) => this.#group(group, wrong, changes)),
      this.#request(hit.request, this.isWhole),
    )
  }

  /** With which hit it is compared, and how much is different. */
  #against() {
    if (!this.against) return null
    const { other, changes, complete, isChosen } = this.against
    if (!other) {
      const why = complete
        ? "No hit of this visitor is kept from before this one."
        : "None was found among the newest hits; a filter such as visitor: finds older ones."
      return h("p", { class: "against", role: "status" }, why)
    }
    const q = new URLSearchParams(location.search).get("q")
    const later = span((this.hit.received_ms - other.received_ms) / 1_000)
    return h(
      "p",
      { class: "against", role: "status" },
      changes.length ? `${plural(changes.length, "field")} differ from ` : "Nothing differs from ",
      h(
        "a",
        { href: `/hits/${other.id}${q ? `?q=${encodeURIComponent(q)}` : ""}` },
        other.title || `hit ${other.id}`,
      ),
      `, ${isChosen ? "the other one selected" : "the hit before it of the same visitor"}, ${later} earlier.`,
    )
  }

  #actions(hit) {
    const press = (label, does) =>
      h("button", { type: "button", onclick: (event) => does(event.currentTarget) }, label)
    const copied = (get) => (button) => this.app.attempt(async () => copy(await get(), button))
    const requeue = () =>
      this.app.attempt(async () => {
        await post("hits/requeue", { ids: [hit.id] })
        put(
          this.root,
          this.#head(hit.title),
          h("p", {}, "It waits again, as a hit of a new number."),
        )
        this.app.screen.again()
        await this.app.refresh()
      })
    const retry = () =>
      this.app.attempt(async () => {
        this.app.told(await post("forwarding/retry", { ids: [hit.id] }))
        await this.load()
      })
    return [
      press(
        "Copy cURL",
        copied(() => text(`hits/${hit.id}/curl`)),
      ),
      h(
        "details",
        { class: "menu" },
        h("summary", { role: "button" }, "More"),
        h(
          "div",
          {},
          press(
            "Copy URL",
            copied(() => this.#url(hit)),
          ),
          press(
            "Copy JSON",
            copied(() => JSON.stringify(hit.decoded, null, 2)),
          ),
          press(
            "Copy NDJSON row",
            copied(() => text("hits.ndjson", { q: `id:${hit.id}` })),
          ),
          press(
            "Copy raw request",
            copied(() => text(`hits/${hit.id}/raw`)),
          ),
        ),
      ),
      h(
        "button",
        {
          type: "button",
          class: "compare",
          title: "With the hit before it of the same visitor",
          "aria-pressed": String(Boolean(this.against)),
          onclick: () => {
            if (!this.against) return this.app.attempt(() => this.compare())
            this.against = null
            return this.#compared()
          },
        },
        "Compare",
      ),
      hit.state === "dead" ? press("Requeue", requeue) : null,
      hit.state === "waiting" && (this.app.status?.forwarding ?? this.app.status?.edge)
        ? press("Retry", retry)
        : null,
    ]
  }

  /** The whole request as an address; what a beacon had in its body goes behind the `?`. */
  #url({ request, decoded }) {
    const isEvent = decoded.protocol === "edge"
    const { upstream, edge } = this.app.status ?? {}
    const base = (isEvent ? edge?.upstream : upstream) ?? "http://127.0.0.1:8277"
    const isBeacon = !isEvent && request.method === "POST" && request.body
    const isForm = isBeacon && !request.body.startsWith("<")
    const joint = request.target.includes("?") ? "&" : "?"
    return `${base}${request.target}${isForm ? joint + request.body : ""}`
  }

  #findings(findings) {
    if (!findings.length) return null
    return h(
      "ul",
      { class: "found", "aria-label": "Findings" },
      findings.map((one) =>
        h(
          "li",
          { class: one.severity },
          h("span", { class: `rule ${one.severity}` }, `${severity(one.severity)} ${one.rule}`),
          h(
            "span",
            {},
            `${one.text} `,
            one.doc
              ? h("a", { href: one.doc, target: "_blank", rel: "noreferrer" }, "Adobe says ↗")
              : null,
          ),
        ),
      ),
    )
  }

  #timeline(hit) {
    const at = (ms) =>
      ms === null ? h("span", { class: "muted" }, "–") : moment(ms, exact(ms).slice(11, 23))
    const seconds = Number(hit.decoded.ts)
    return h(
      "div",
      {},
      h("h3", {}, "What happened"),
      h(
        "table",
        { class: "fields" },
        h(
          "tbody",
          {},
          hit.timeline.map((one) =>
            h("tr", {}, h("th", { scope: "row" }, at(one.at_ms)), h("td", {}, one.what)),
          ),
          h(
            "tr",
            {},
            h("th", { scope: "row" }, "ts"),
            h(
              "td",
              {},
              hit.decoded.ts
                ? [
                    h("code", {}, hit.decoded.ts),
                    seconds > 1e9 && seconds < 1e11
                      ? [" = ", moment(seconds * 1_000, exact(seconds * 1_000).slice(0, 19))]
                      : null,
                    ", set by the client",
                  ]
                : hit.ts_sent
                  ? [
                      h("code", {}, String(hit.ts_sent)),
                      " = ",
                      moment(hit.ts_sent * 1_000, exact(hit.ts_sent * 1_000).slice(0, 19)),
                      ", stamped here",
                    ]
                  : "none set by the client",
            ),
          ),
        ),
      ),
    )
  }

  #visitor(identities) {
    if (!identities.length) return null
    return h(
      "div",
      {},
      h("h3", {}, "Visitor"),
      h(
        "ul",
        { class: "ids" },
        identities.map((one) =>
          h(
            "li",
            { class: one.used ? "used" : "muted" },
            h("span", {}, one.kind),
            " ",
            h("code", {}, one.value || "–"),
            one.used ? " ← used" : " ignored",
          ),
        ),
      ),
    )
  }

  #events(events) {
    if (!events.length) return null
    return h(
      "div",
      {},
      h("h3", {}, "Events"),
      h(
        "p",
        { class: "chips" },
        events.map((one, at) => [
          at ? " " : "",
          h(
            "code",
            { title: one.label },
            one.name,
            one.label ? h("em", {}, ` ${one.label}`) : null,
            one.value ? `=${one.value}` : "",
            one.serial ? `:${one.serial}` : "",
          ),
        ]),
      ),
    )
  }

  #products(products) {
    if (!products.length) return null
    const heads = ["Category", "Product", "Qty", "Price", "Events", "eVars"]
    const called = (one) => (one.label ? `${one.name} ${one.label}` : one.name)
    const events = (one) =>
      one.events.map((e) => (e.value ? `${called(e)}=${e.value}` : called(e))).join(", ")
    const evars = (one) => one.evars.map((v) => `${called(v)}=${v.value}`).join(", ")
    return h(
      "div",
      { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Products" },
      h("h3", {}, "Products"),
      h(
        "table",
        { class: "products" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            heads.map((name, at) =>
              h("th", { scope: "col", class: at === 2 || at === 3 ? "count" : null }, name),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          products.map((one) =>
            h(
              "tr",
              { title: one.raw },
              h("td", {}, one.category || "–"),
              h("th", { scope: "row" }, one.name || "–"),
              h("td", { class: "count" }, one.quantity || "–"),
              h("td", { class: "count" }, one.price || "–"),
              h("td", {}, events(one) || "–"),
              h("td", {}, evars(one) || "–"),
            ),
          ),
        ),
      ),
    )
  }

  #group(group, wrong, changes) {
    const table = h(
      "table",
      { class: "fields" },
      h(
        "tbody",
        {},
        group.fields.map((one) => this.#field(one, wrong.get(one.key), changes.of(group, one))),
        changes.gone(group).map((one) => this.#field(one, undefined, one)),
      ),
    )
    if (!FOLDED.has(group.id)) return h("div", {}, h("h3", {}, group.title), table)
    return h(
      "details",
      {},
      h(
        "summary",
        {},
        h("h3", {}, group.title),
        h("span", { class: "muted" }, ` ${group.fields.length}${changes.count(group)}`),
      ),
      table,
    )
  }

  #field(one, finding, change) {
    const isGone = change?.after === null
    const marks = [finding?.severity, change ? "changed" : null].filter(Boolean)
    return h(
      "tr",
      { class: marks.join(" ") || null },
      h(
        "th",
        { scope: "row" },
        one.name,
        one.label ? h("em", {}, ` ${one.label}`) : null,
        one.key && !one.key.endsWith(one.name)
          ? h("small", { class: "muted" }, ` ${one.key}`)
          : null,
      ),
      h(
        "td",
        {},
        isGone ? null : h("code", {}, one.value === "" ? "(empty)" : one.value),
        change ? h("small", { class: "was" }, was(change)) : null,
        finding ? [" ", h("span", { class: `rule ${finding.severity}` }, finding.rule)] : null,
      ),
    )
  }

  #request(request, isWhole) {
    if (!request) return null
    return h(
      "details",
      {},
      h("summary", {}, h("h3", {}, "Request")),
      h(
        "pre",
        { tabindex: "0", "aria-label": "The request as it came" },
        `${request.method} ${request.target}\n${request.headers.map(([name, value]) => `${name}: ${value}`).join("\n")}\n${request.body ? `\n${request.body}` : ""}`,
      ),
      isWhole
        ? null
        : h(
            "button",
            { type: "button", onclick: () => this.load({ unredacted: 1 }) },
            "Show what identifies, too",
          ),
    )
  }
}

/** What differs from another hit, found by group and field. */
class Changes {
  constructor(changes) {
    this.all = changes
    this.byPlace = new Map(changes.map((one) => [place(one.group, one.name, one.place), one]))
    this.seen = new Map()
  }

  /** The change of a group's field; to be asked of each one in their order. */
  of(group, { name }) {
    const key = `${group.id} ${name}`
    const count = this.seen.get(key) ?? 0
    this.seen.set(key, count + 1)
    return this.byPlace.get(place(group.id, name, count))
  }

  /** What only the other hit has of a group. */
  gone(group) {
    return this.all.filter((one) => one.group === group.id && one.after === null)
  }

  count(group) {
    const count = this.all.filter((one) => one.group === group.id).length
    return count ? ` · ${number(count)} different` : ""
  }

  /** The groups that only the other hit has. */
  groups(known) {
    const ids = new Set(known.map((group) => group.id))
    const found = this.all.filter((one) => !ids.has(one.group)).map((one) => one.group)
    return [...new Set(found)].map((id) => ({ id, title: `Only before: ${id}`, fields: [] }))
  }
}

const place = (...parts) => JSON.stringify(parts)

function was({ before, after }) {
  if (before === null) return " new"
  return `${after === null ? "gone, was " : " was "}${before === "" ? "(empty)" : before}`
}
