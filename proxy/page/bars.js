/* When hits came in the last 24 hours, as a strip of bars; a bar pressed is a filter of its time.

Rule: a shortcut for the pointer and nothing more: `after:` and `before:` say the same, so it is
hidden from who does not see it, and takes no focus. */

import { get } from "./ask.js"
import { h, put, s } from "./dom.js"
import { hm, plural } from "./words.js"

const COUNT = 48
const DAY_MS = 86_400_000
const EACH_MS = DAY_MS / COUNT
const WIDTH = 288
const HEIGHT = 24
const AGAIN_MS = 60_000

const minute = (ms) => `${new Date(ms).toISOString().slice(0, 16)}Z`

export class Bars {
  /** `press` gets the terms that a bar stands for. */
  constructor(press) {
    this.press = press
    this.element = h("div", { class: "bars", "aria-hidden": "true" })
    this.timer = setInterval(() => this.load(), AGAIN_MS)
    this.load()
  }

  gone() {
    clearInterval(this.timer)
  }

  async load() {
    try {
      this.#show((await get("series", { window: "24h" })).points)
    } catch {
      put(this.element)
    }
  }

  #show(points) {
    const end = Math.ceil(Date.now() / EACH_MS) * EACH_MS
    const first = end - DAY_MS
    const counts = new Array(COUNT).fill(0)
    for (const one of points) {
      const at = Math.floor((one.at_ms - 1 - first) / EACH_MS)
      if (at >= 0 && at < COUNT) counts[at] += one.received
    }
    const most = Math.max(...counts)
    if (!most) {
      put(this.element)
      return
    }
    const wide = WIDTH / COUNT
    const bars = counts.map((count, at) => {
      const from = first + at * EACH_MS
      const tall = count ? Math.max(2, (count / most) * HEIGHT) : 0
      return s(
        "g",
        { onclick: () => this.press(`after:${minute(from)} before:${minute(from + EACH_MS)}`) },
        s("title", {}, `${hm(from)} to ${hm(from + EACH_MS)}: ${plural(count, "hit")}`),
        s("rect", { class: "reach", x: at * wide, y: 0, width: wide, height: HEIGHT }),
        s("rect", { class: "bar", x: at * wide, y: HEIGHT - tall, width: wide - 1, height: tall }),
      )
    })
    put(
      this.element,
      s("svg", { width: WIDTH, height: HEIGHT, viewBox: `0 0 ${WIDTH} ${HEIGHT}` }, bars),
    )
  }
}
