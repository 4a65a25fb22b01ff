/* A hit as a row of the list.

Rule: wide, a column for each thing one looks for; narrow, what matters of them below the name. */

import { h } from "./dom.js"
import { kind, moment, rules, state } from "./words.js"

export function row(hit, { href, isSelected, titles }) {
  const found = rules(hit.findings, titles ?? undefined)
  const others = hit.suites.length > 1 ? ` +${hit.suites.length - 1}` : ""
  const shown = hit.title || "(no name)"
  return h(
    "tr",
    { "data-id": hit.id },
    h(
      "td",
      { class: "pick" },
      h("input", {
        type: "checkbox",
        "aria-label": `Select ${shown}, hit ${hit.id}`,
        checked: isSelected,
      }),
    ),
    h("td", { class: "received" }, moment(hit.received_ms)),
    h("td", { class: "type" }, kind(hit.kind)),
    h(
      "td",
      { class: "page" },
      h("a", { href, title: shown }, shown),
      h(
        "small",
        { class: "narrow" },
        rules(hit.findings).map((one) => [one, " "]),
        hit.suites[0] ?? "no suite",
        others,
        hit.events.length ? ` · ${hit.events.join(", ")}` : "",
      ),
    ),
    h("td", { class: "events wide", title: hit.events.join(", ") }, hit.events.join(", ") || "–"),
    h(
      "td",
      { class: "suite wide", title: hit.suites.join(", ") },
      hit.suites.length ? `${hit.suites[0]}${others}` : "none",
    ),
    h(
      "td",
      {
        class: "visitor wide",
        title: hit.visitor ? `${hit.visitor.kind} ${hit.visitor.value}` : null,
      },
      visitor(hit.visitor),
    ),
    h(
      "td",
      { class: "state" },
      state(hit.state),
      hit.ambiguous
        ? h(
            "span",
            { class: "warn", title: "A send was cut before its answer: Adobe may have it already" },
            " twice?",
          )
        : null,
    ),
    h(
      "td",
      { class: "findings" },
      found.length ? found.map((one, at) => [at ? " " : "", one]) : "–",
    ),
  )
}

function visitor(one) {
  if (!one) return h("span", { class: "muted" }, "none")
  if (one.kind === "ip") return h("span", { class: "muted" }, "IP + agent")
  const value = one.value.length > 8 ? `…${one.value.slice(-4)}` : one.value
  return [h("span", { class: "muted" }, `${one.kind} `), value]
}
