/* What the daemon tells while somebody looks: one stream of events, and none while nobody does.

Rule: a hidden page holds no connection, for a browser has six to a host; when it is seen
again it asks anew. A lost stream is tried again, and said to be lost.
Non-rule: knows no screen.
Source: the WHATWG's HTML standard, "Server-sent events", "Page visibility". */

const AGAIN_MS = 2_000

export class Live {
  /** `told` has a function each for `status`, `hits`, `again` (all may be different) and `chip`. */
  constructor(told) {
    this.told = told
    this.stream = null
    this.timer = null
    this.isPaused = false
    this.wasOpen = false
    document.addEventListener("visibilitychange", () => this.#seen())
    addEventListener("pagehide", () => this.stop())
    addEventListener("pageshow", (event) => event.persisted && this.start())
  }

  start() {
    this.stop()
    if (document.hidden) return
    const stream = new EventSource("/api/v1/events")
    this.stream = stream
    stream.addEventListener("open", () => {
      this.told.chip("live")
      if (this.wasOpen) this.told.again()
      this.wasOpen = true
    })
    stream.addEventListener("status", (event) => this.told.status(JSON.parse(event.data)))
    stream.addEventListener("hits", (event) => this.told.hits(JSON.parse(event.data)))
    stream.addEventListener("reset", () => this.told.again())
    stream.addEventListener("error", () => {
      this.told.chip("lost")
      // The browser tries again by itself unless it was answered, and not with a stream.
      if (stream.readyState === EventSource.CLOSED) {
        this.stop()
        this.timer = setTimeout(() => this.start(), AGAIN_MS)
        this.told.refused()
      }
    })
  }

  stop() {
    clearTimeout(this.timer)
    this.stream?.close()
    this.stream = null
  }

  #seen() {
    if (document.hidden) {
      this.stop()
      this.told.chip("away")
    } else {
      this.start()
    }
  }
}
