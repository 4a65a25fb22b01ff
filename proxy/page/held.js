/* What a held hit waits for, and the very lines that release it.

Rule: a hit is held because nobody said what its report suite does with timestamps; only the
configuration can say it, for it must hold for the next hits too. So the page says what to write,
and where, and has no button.
Source: docs/design/0006; TOML v1.0, "Keys". */

import { get } from "./ask.js"
import { copy } from "./dialogs.js"
import { h, put } from "./dom.js"

const BARE = /^[A-Za-z0-9_-]+$/
let asked = null // where the configuration stands, once for all

/** For these report suites of one hit; null when what is wanted is no mode that nobody told. */
export function release(suites, reason) {
  if (!/^set \[suites\.known\./.test(reason ?? "")) return null
  const key = (suite) => (BARE.test(suite) ? suite : JSON.stringify(suite))
  const lines = suites
    .map((suite) => `[suites.known.${key(suite)}]\ntimestamps = "required"`)
    .join("\n")
  const file = h("span", {}, "the configuration")
  asked ??= get("config")
  asked.then(
    ({ source }) => source && put(file, h("code", {}, source)),
    () => (asked = null),
  )
  return h(
    "details",
    { class: "release", "data-of": suites.join() },
    h("summary", {}, "What releases it"),
    h(
      "p",
      {},
      "Write into ",
      file,
      " what Adobe does with timestamps there (in Adobe: Admin, Report Suites, General): ",
      h("code", {}, "required"),
      ", ",
      h("code", {}, "optional"),
      " or ",
      h("code", {}, "not-allowed"),
      ".",
    ),
    h(
      "div",
      { class: "lines" },
      h("pre", { tabindex: "0" }, lines),
      h("button", { type: "button", onclick: (event) => copy(lines, event.target) }, "Copy"),
    ),
    h(
      "p",
      {},
      "Then reload, as with ",
      h("code", {}, "systemctl reload trackoffline"),
      " or SIGHUP. With the first two it goes out by itself, with the time it was received; with the third it becomes a dead letter, unless ",
      h("code", {}, 'when_late = "send"'),
      " stands beside it.",
    ),
  )
}
