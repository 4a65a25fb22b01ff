/* Numbers, lengths of time and moments, as a person reads them.

Rule: exact where it is asked for (on hover, in the detail), short elsewhere; local time first,
UTC beside it. */

import { h } from "./dom.js"

const WHOLE = new Intl.NumberFormat("en")
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ")
const UNITS = [
  [86_400, "d"],
  [3_600, "h"],
  [60, "m"],
  [1, "s"],
]
const BYTES = ["B", "kB", "MB", "GB", "TB"]

export const number = (value) => WHOLE.format(value ?? 0)

export const plural = (count, one, many = `${one}s`) =>
  `${number(count)} ${count === 1 ? one : many}`

/** The two largest units: "5 h 12 m". */
export function span(seconds) {
  let rest = Math.max(0, Math.round(seconds))
  const at = Math.max(
    0,
    UNITS.findIndex(([size]) => rest >= size),
  )
  if (rest === 0) return "0 s"
  return UNITS.slice(at, at + 2)
    .map(([size, unit]) => {
      const count = Math.floor(rest / size)
      rest -= count * size
      return count ? `${count} ${unit}` : ""
    })
    .filter(Boolean)
    .join(" ")
}

/** One unit only, for an axis. */
export function tick(seconds) {
  if (!seconds) return "0"
  const [size, unit] = UNITS.find(([size]) => seconds >= size) ?? UNITS[3]
  return `${Math.round((seconds / size) * 10) / 10} ${unit}`
}

export function bytes(count) {
  let at = 0
  let value = count
  while (value >= 1000 && at < BYTES.length - 1) {
    value /= 1000
    at += 1
  }
  return `${at && value < 10 ? value.toFixed(1) : Math.round(value)} ${BYTES[at]}`
}

/** "2GiB", "200 MB" or a number, as bytes; null when it is none of these. */
export function sized(value) {
  if (typeof value === "number") return value
  const found = /^([0-9.]+)\s*([KMGT]?)(i?)B?$/.exec(String(value).replaceAll("_", ""))
  if (!found) return null
  const power = " KMGT".indexOf(found[2] || " ")
  return Number(found[1]) * (found[3] ? 1024 : 1000) ** power
}

const two = (value) => String(value).padStart(2, "0")

function hms(at) {
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`
}

export function hm(ms) {
  return hms(new Date(ms)).slice(0, 5)
}

/** Today the time, before that the day too. */
export function clock(ms, now = Date.now()) {
  const at = new Date(ms)
  const isToday = at.toDateString() === new Date(now).toDateString()
  return isToday ? hms(at) : `${at.getDate()} ${MONTHS[at.getMonth()]} ${hms(at).slice(0, 5)}`
}

export function exact(ms) {
  const at = new Date(ms)
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
  const rest = String(at.getMilliseconds()).padStart(3, "0")
  return `${day} ${hms(at)}.${rest} local · ${at.toISOString().replace("T", " ")} UTC`.replace(
    "Z UTC",
    " UTC",
  )
}

export const ago = (ms, now = Date.now()) => `${span((now - ms) / 1000)} ago`

/** A moment as an element: short, and exact on hover. */
export function moment(ms, text = clock(ms)) {
  return h("time", { datetime: new Date(ms).toISOString(), title: exact(ms) }, text)
}

const SHAPES = {
  waiting: "○",
  sending: "◐",
  held: "‖",
  delivered: "✓",
  dead: "✕",
}

/** A state is a word and a shape; its colour says nothing more. */
export function state(name) {
  return h(
    "span",
    { class: `state ${name}` },
    h("i", { "aria-hidden": "true" }, SHAPES[name] ?? "·"),
    name,
  )
}

const KINDS = { page: "page view", link: "link", exit: "exit link ↗", download: "download ↓" }
export const kind = (name) => KINDS[name] ?? name

const SEVERITY = { lost: "Lost", wrong: "Wrong", note: "Note" }
export const severity = (name) => SEVERITY[name] ?? name

/** The rules a hit breaks, the gravest first. */
export function rules(findings, titles = new Map()) {
  const order = ["lost", "wrong", "note"]
  return [...(findings ?? [])]
    .sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity))
    .map((one) =>
      h("span", { class: `rule ${one.severity}`, title: titles.get(one.rule) }, one.rule),
    )
}
