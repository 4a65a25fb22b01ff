/* What is asked or explained in a box of its own, and what is copied.

Rule: the browser's own dialog: it traps the focus, closes with Esc and gives the focus back. */

import { h } from "./dom.js"

/** Show a box; resolves with what the pressed button says, "" when it was closed. */
export function box(title, content, buttons = [["", "Close"]]) {
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "box-title", tabindex: "-1", autofocus: true }, title),
    content,
    h(
      "div",
      { class: "buttons" },
      buttons.map(([value, label, more]) => h("button", { value, ...more }, label)),
    ),
  )
  const dialog = h("dialog", { "aria-labelledby": "box-title" }, form)
  document.body.append(dialog)
  dialog.showModal()
  const answer = new Promise((done) => {
    dialog.addEventListener("close", () => {
      dialog.remove()
      done(dialog.returnValue)
    })
  })
  dialog.addEventListener("cancel", () => {
    dialog.returnValue = ""
  })
  return answer
}

/** Discarding is for good: the number of hits is typed back, and a copy is offered first. */
export async function discardable(count, copy) {
  const sure = h("input", { id: "sure", inputmode: "numeric", autocomplete: "off", size: "8" })
  const asked = box(
    `Discard ${count === 1 ? "this hit" : `these ${count} hits`} for good?`,
    [
      h("p", {}, "Adobe will never get them, and they cannot be brought back. "),
      h(
        "p",
        {},
        h("a", { href: copy, download: "dead.ndjson" }, "Export them first"),
        " as NDJSON.",
      ),
      h("p", {}, h("label", { for: "sure" }, `Type ${count} to discard: `), sure),
    ],
    [
      ["discard", "Discard", { class: "danger", disabled: true }],
      ["", "Keep", { formnovalidate: true }],
    ],
  )
  const button = sure.form.querySelector(".danger")
  sure.addEventListener("input", () => {
    button.disabled = sure.value.trim() !== String(count)
  })
  // Enter presses a form's first button, and nothing while that one is disabled.
  sure.focus()
  return (await asked) === "discard"
}

/** How long everything is held back; null when it is not, "" for until further notice. */
export async function holdLength() {
  const choices = [
    ["", "until I go online again"],
    ["30m", "30 minutes"],
    ["2h", "2 hours"],
    ["8h", "8 hours"],
  ]
  const long = h(
    "select",
    { id: "long" },
    choices.map(([value, label]) => h("option", { value }, label)),
  )
  const said = await box(
    "Hold everything back",
    [
      h("p", {}, "Hits are still taken and stored; none is sent to Adobe until you let them go."),
      h("p", {}, h("label", { for: "long" }, "For how long? "), long),
    ],
    [
      ["hold", "Go offline", { class: "strong" }],
      ["", "Cancel"],
    ],
  )
  return said === "hold" ? long.value : null
}

/** Copy, and say so on the button that asked; where the browser does not let us, show it. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    const area = h("textarea", { rows: "12", readonly: true, "aria-label": "Text to copy" }, text)
    const shown = box("Press Ctrl+C to copy", area)
    area.select()
    await shown
    return
  }
  // A menu is closed by now; its name is what can be seen of it.
  flash(button.closest("details.menu")?.querySelector("summary") ?? button, "Copied ✓")
}

export function flash(button, text) {
  const before = button.dataset.label ?? button.textContent
  button.dataset.label = before
  button.textContent = text
  setTimeout(() => {
    button.textContent = before
  }, 1_500)
}
