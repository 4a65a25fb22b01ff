/* The one chart: how old the oldest waiting hit was, and what was delivered and what died.

Rule: one axis of time for both; the figures can be read under the pointer, and the sum of it
all stands in a sentence for who does not see it. No library: it is two paths and some bars. */

import { h, put, s } from "./dom.js"
import { clock, hm, number, span, tick } from "./words.js"

const STEPS = [60, 300, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 172_800, 604_800]
const LEFT = 44
const RIGHT = 8
const AGES = { top: 8, height: 112 }
const BARS = { top: 140, height: 44 }
const HEIGHT = 206

export class Chart {
  constructor() {
    this.readout = h("p", { class: "readout", "aria-hidden": "true" })
    this.drawing = h("div", { class: "drawing" })
    this.caption = h("figcaption", { class: "unseen" })
    this.element = h(
      "figure",
      { class: "chart" },
      h(
        "p",
        { class: "legend" },
        h("span", { class: "age" }, "oldest waiting hit"),
        h("span", { class: "delivered" }, "delivered"),
        h("span", { class: "dead" }, "died"),
        h("span", { class: "muted" }, "last 24 hours"),
      ),
      this.drawing,
      this.readout,
      this.caption,
    )
    this.series = null
    this.observer = new ResizeObserver(() => this.#draw())
    this.observer.observe(this.drawing)
  }

  gone() {
    this.observer.disconnect()
  }

  /** `series` as the API has it. */
  show(series) {
    this.series = series
    this.#draw()
  }

  #draw() {
    const points = died(this.series?.points ?? [])
    const width = this.drawing.clientWidth
    if (!width) return
    if (points.length < 2) {
      put(
        this.drawing,
        h(
          "p",
          { class: "muted empty" },
          "The chart begins with the first minutes of the daemon's life.",
        ),
      )
      put(this.caption, "No figures yet")
      return
    }
    const step = (this.series.step_s ?? 60) * 1_000
    const last = points[points.length - 1].at_ms
    const first = Math.min(points[0].at_ms, last - 86_400_000)
    const x = (ms) => LEFT + ((ms - first) / (last - first)) * (width - LEFT - RIGHT)
    const oldest = Math.max(...points.map((one) => one.oldest_s ?? 0))
    const top = Math.max(60, oldest)
    const y = (age) => AGES.top + AGES.height * (1 - age / top)
    // So many points to a bar that a bar is three pixels wide at least.
    const wide = Math.max(1, Math.ceil(3 / Math.max(0.01, x(first + step) - x(first))))
    const bars = summed(points, wide, step)
    const tallest = Math.max(1, ...bars.map((one) => one.delivered + one.dead))
    const bar = (one, from, count, name) => {
      const size = (count / tallest) * BARS.height
      if (!count) return null
      const left = x(one.at_ms)
      const right = Math.max(left + 2, x(one.at_ms + wide * step) - 1)
      const tall = Math.max(2, size)
      return s("rect", {
        class: name,
        x: left,
        y: BARS.top + BARS.height - (from / tallest) * BARS.height - tall,
        width: Math.min(right, width - RIGHT + 2) - left,
        height: tall,
      })
    }
    const cross = s("line", {
      class: "cross",
      y1: AGES.top,
      y2: BARS.top + BARS.height,
      visibility: "hidden",
    })
    const base = AGES.top + AGES.height
    const line = points
      .map(
        (one, at) =>
          `${at ? "L" : "M"}${x(one.at_ms).toFixed(1)},${y(one.oldest_s ?? 0).toFixed(1)}`,
      )
      .join("")
    const drawn = s(
      "svg",
      { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
      ageTicks(top).map((age) => [
        s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(age), y2: y(age) }),
        s("text", { x: LEFT - 6, y: y(age) + 4, "text-anchor": "end" }, tick(age)),
      ]),
      hourTicks(first, last, width).map((ms) =>
        s("text", { x: x(ms), y: HEIGHT - 4, "text-anchor": "middle" }, hm(ms)),
      ),
      s("line", {
        class: "grid",
        x1: LEFT,
        x2: width - RIGHT,
        y1: BARS.top + BARS.height,
        y2: BARS.top + BARS.height,
      }),
      s(
        "text",
        { x: LEFT - 6, y: BARS.top + 8, "text-anchor": "end" },
        tallest > 1 ? compact(tallest) : "",
      ),
      s("path", { class: "area", d: `${line}L${x(last)},${base}L${x(points[0].at_ms)},${base}Z` }),
      s("path", { class: "line", d: line }),
      bars.map((one) => [
        bar(one, 0, one.delivered, "delivered"),
        bar(one, one.delivered, one.dead, "dead"),
      ]),
      cross,
    )
    drawn.addEventListener("pointermove", (event) => {
      const at = first + ((event.offsetX - LEFT) / (width - LEFT - RIGHT)) * (last - first)
      const near = points.reduce((a, b) =>
        Math.abs(b.at_ms - at) < Math.abs(a.at_ms - at) ? b : a,
      )
      cross.setAttribute("x1", x(near.at_ms))
      cross.setAttribute("x2", x(near.at_ms))
      cross.setAttribute("visibility", "visible")
      put(this.readout, told(near))
    })
    drawn.addEventListener("pointerleave", () => {
      cross.setAttribute("visibility", "hidden")
      put(this.readout)
    })
    put(this.drawing, drawn)
    const sum = (name) => points.reduce((total, one) => total + (one[name] ?? 0), 0)
    put(
      this.caption,
      `Oldest waiting hit over the last 24 hours: now ${span(points[points.length - 1].oldest_s ?? 0)}, ` +
        `at most ${span(oldest)}. Delivered ${number(sum("delivered"))}, died ${number(sum("dead"))}.`,
    )
  }
}

/** The API tells how many dead letters stood there; here it is how many there were more than before. */
function died(points) {
  return points.map((one, at) => ({
    ...one,
    dead: at ? Math.max(0, one.dead - points[at - 1].dead) : 0,
  }))
}

function told(point) {
  const parts = [
    clock(point.at_ms),
    `oldest ${span(point.oldest_s ?? 0)}`,
    `${number(point.waiting)} waiting`,
  ]
  parts.push(`${number(point.delivered)} delivered`)
  if (point.dead) parts.push(`${number(point.dead)} dead`)
  return parts.join(" · ")
}

function summed(points, wide, step) {
  const found = []
  for (const one of points) {
    const at = Math.floor(one.at_ms / (wide * step)) * wide * step
    const before = found[found.length - 1]
    if (before?.at_ms === at) {
      before.delivered += one.delivered ?? 0
      before.dead += one.dead ?? 0
    } else {
      found.push({ at_ms: at, delivered: one.delivered ?? 0, dead: one.dead ?? 0 })
    }
  }
  return found
}

function ageTicks(top) {
  const step = STEPS.find((one) => top / one <= 3) ?? top
  const found = []
  for (let age = 0; age <= top; age += step) found.push(age)
  return found
}

function hourTicks(first, last, width) {
  const every = (width < 480 ? 6 : 3) * 3_600_000
  const zone = new Date(last).getTimezoneOffset() * 60_000
  const found = []
  for (let ms = Math.ceil((first - zone) / every) * every + zone; ms <= last; ms += every)
    found.push(ms)
  return found.filter((ms) => ms - first > every / 12 && last - ms > every / 12)
}

const compact = (count) => new Intl.NumberFormat("en", { notation: "compact" }).format(count)
