/* Health: what the daemon says of itself and of its surroundings, and how it is set up.

Rule: each check is a word, a shape and a sentence; secrets are hidden by the daemon already. */

import { get, post } from "./ask.js"
import { copy } from "./dialogs.js"
import { h, put } from "./dom.js"
import { severity } from "./words.js"

const WORDS = { ok: ["✓", "ok"], warn: ["⚠", "warn"], bad: ["✕", "bad"] }
const AGAIN_MS = 10_000

export class Health {
  constructor(app, root) {
    this.app = app
    this.checks = h("div", {})
    this.config = h("div", {})
    this.rules = h("div", {})
    put(
      root,
      h("h1", {}, "Health"),
      this.checks,
      h("h2", {}, "Configuration in force"),
      this.config,
      h("h2", {}, "What is looked for in each hit"),
      this.rules,
    )
    this.again()
    this.timer = setInterval(() => this.#check(), AGAIN_MS)
  }

  gone() {
    clearInterval(this.timer)
  }

  moved() {}

  again() {
    this.#check()
    this.#config()
    this.#rules()
  }

  async #check() {
    try {
      const { checks } = await get("health")
      this.health = checks
      const held = document.activeElement?.closest("tr")?.dataset.name
      put(
        this.checks,
        checked(checks, (name) => this.#tested(name)),
      )
      if (held) this.checks.querySelector(`tr[data-name="${CSS.escape(held)}"] button`)?.focus()
    } catch (error) {
      this.#failed(this.checks, error, () => this.#check())
    }
  }

  #tested() {
    return this.app.attempt(async () => {
      this.app.told(await post("forwarding/retry"))
      await this.#check()
    })
  }

  async #config() {
    try {
      const said = await get("config")
      const report = async (event) => {
        const button = event.currentTarget
        await this.app.attempt(async () => {
          const all = { status: await get("status"), health: this.health, config: said }
          await copy(JSON.stringify(all, null, 2), button)
        })
      }
      put(
        this.config,
        h(
          "p",
          {},
          h(
            "span",
            {},
            said.source
              ? ["From ", h("code", {}, said.source), ". "]
              : "No file: defaults and environment. ",
          ),
          h("button", { type: "button", onclick: report }, "Copy for a bug report"),
        ),
        h(
          "table",
          { class: "settings" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              ["Key", "Value", "From"].map((name) => h("th", { scope: "col" }, name)),
            ),
          ),
          h(
            "tbody",
            {},
            settings(said.values).map(([key, one]) =>
              h(
                "tr",
                { class: one.from === "default" ? "muted" : null },
                h("th", { scope: "row" }, h("code", {}, key)),
                h("td", {}, h("code", {}, written(one.value))),
                h("td", {}, one.from),
              ),
            ),
          ),
        ),
      )
    } catch (error) {
      this.#failed(this.config, error, () => this.#config())
    }
  }

  async #rules() {
    try {
      const { rules } = await get("rules")
      put(
        this.rules,
        h(
          "p",
          { class: "muted" },
          "What you know of is silenced in the configuration: ",
          h("code", {}, 'silence = ["N1"]'),
          " for a suite, in ",
          h("code", {}, "[suites.known.…]"),
          "; a reload is enough.",
        ),
        h(
          "table",
          { class: "rules" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              h("th", { scope: "col" }, "Rule"),
              h("th", { scope: "col" }, "What and why"),
            ),
          ),
          h(
            "tbody",
            {},
            rules.map((one) =>
              h(
                "tr",
                {},
                h(
                  "th",
                  { scope: "row" },
                  h(
                    "a",
                    {
                      class: `rule ${one.severity}`,
                      href: `/hits?q=${encodeURIComponent(`rule:${one.id}`)}`,
                    },
                    `${one.id} ${severity(one.severity)}`,
                  ),
                ),
                h(
                  "td",
                  {},
                  h("strong", {}, one.title),
                  `. ${one.why} `,
                  one.doc
                    ? h("a", { href: one.doc, target: "_blank", rel: "noreferrer" }, "Adobe says ↗")
                    : null,
                ),
              ),
            ),
          ),
        ),
      )
    } catch (error) {
      this.#failed(this.rules, error, () => this.#rules())
    }
  }

  #failed(place, error, again) {
    put(
      place,
      h(
        "p",
        { class: "bad" },
        `It cannot be told: ${error.message}. `,
        h("button", { type: "button", onclick: again }, "Try again"),
      ),
    )
  }
}

function checked(checks, test) {
  return h(
    "table",
    { class: "checks" },
    h(
      "tbody",
      {},
      checks.map((one) => {
        const [shape, word] = WORDS[one.state] ?? ["·", one.state]
        return h(
          "tr",
          { "data-name": one.name },
          h(
            "td",
            { class: `verdict ${one.state}` },
            h("span", { "aria-hidden": "true" }, `${shape} `),
            word,
          ),
          h("th", { scope: "row" }, one.name),
          h(
            "td",
            {},
            one.text,
            one.action ? h("span", { class: "muted" }, ` → ${one.action}`) : null,
            /^(upstream|edge)$/i.test(one.name) && one.state !== "ok"
              ? [" ", h("button", { type: "button", onclick: () => test(one.name) }, "Test now")]
              : null,
          ),
        )
      }),
    ),
  )
}

/** Every setting with its whole key, however deep it stands. */
function settings(values, above = "") {
  return Object.entries(values).flatMap(([key, one]) => {
    if (one !== null && typeof one === "object" && !("from" in one))
      return settings(one, `${above}${key}.`)
    return [[`${above}${key}`, one]]
  })
}

const written = (value) => (typeof value === "string" ? value || '""' : JSON.stringify(value))
