/* The line below the names of the screens: what becomes of hits right now, and what can be done.

Rule: a state is a word, and what holds hits back is named: nobody, the network, a person, or
the daemon itself. Only the sentence is read aloud when it changes; what counts down stands
beside it.
Source: the status of the API; Syncthing's lesson that "paused" and "broken" differ. */

import { post } from "./ask.js"
import { holdLength } from "./dialogs.js"
import { $, h, put } from "./dom.js"
import { ago, clock, moment, number, span } from "./words.js"

export class Band {
  constructor(app) {
    this.app = app
    this.sentence = ""
    this.steered = ""
    this.shownAt = 0
    setInterval(() => this.#tick(), 1_000)
  }

  show(status) {
    this.status = status
    this.shownAt = Date.now()
    $("band").className = `band ${isUntried(status) ? "ready" : status.state}`
    const sentence = said(status)
    // Said again only when it is another one, or a reader would hear it each second.
    if (sentence !== this.sentence) {
      this.sentence = sentence
      const [word, ...rest] = sentence.split("|")
      put($("state"), h("strong", {}, word), rest.join("|"))
      $("state").title = failures(status)
    }
    this.#tick()
    this.#steer(status)
  }

  #tick() {
    if (!this.status) return
    const { state } = this.status
    const forwarding = road(this.status)
    const since = (Date.now() - this.shownAt) / 1_000
    const beside = []
    if (isWaiting(this.status)) {
      const left = forwarding.next_try_seconds - since
      const why = state === "online" ? "the server asked for a pause, " : ""
      beside.push(left > 0.5 ? `${why}next try in ${span(left)}` : "trying now")
    }
    if (forwarding?.last_delivery_ms && state !== "capture") {
      beside.push([
        "last delivery ",
        moment(forwarding.last_delivery_ms, ago(forwarding.last_delivery_ms)),
      ])
    }
    const { empty_in_seconds: left, delivered_per_second: speed } = this.status
    if (state === "online" && speed && left > 5)
      beside.push(`${number(Math.round(speed))} hits a second, all gone in ${span(left)}`)
    if (forwarding?.in_flight) beside.push(`${number(forwarding.in_flight)} in flight`)
    const other = otherRoad(this.status)
    if (other) beside.push(h("a", { href: "/health" }, besideIt(other, since)))
    put(
      $("aside"),
      beside.map((one, at) => [at ? " · " : "", one]),
    )
  }

  #steer(status) {
    const buttons =
      {
        online: isWaiting(status) || isDown(status) ? ["retry", "offline"] : ["offline"],
        offline: isUntried(status) ? ["offline"] : ["retry", "offline"],
        held: ["online"],
        refusing: road(status) ? ["retry"] : [],
      }[status.state] ?? []
    if (buttons.join() === this.steered) return
    this.steered = buttons.join()
    put(
      $("steer"),
      buttons.map((one) => this.#button(one)),
    )
  }

  #button(name) {
    const labels = { retry: "Retry now", offline: "Go offline…", online: "Go online" }
    const press = {
      retry: () => this.retry(),
      offline: () => this.#offline(),
      online: () => this.#tell("online"),
    }
    return h(
      "button",
      { type: "button", class: name === "online" ? "strong" : null, onclick: press[name] },
      labels[name],
    )
  }

  retry() {
    return this.#tell("retry")
  }

  async #offline() {
    const long = await holdLength()
    if (long !== null) await this.#tell("offline", long ? { for: long } : {})
  }

  #tell(what, how = {}) {
    return this.app.attempt(async () => this.app.told(await post(`forwarding/${what}`, how)))
  }
}

/** The road that the state speaks of: that of Analytics, unless only Edge's was used. */
function road({ upstream, forwarding, edge }) {
  const tried = forwarding && (forwarding.link !== "suspect" || forwarding.last_failure)
  if (forwarding && (!edge || tried)) return { upstream, ...forwarding }
  return edge ?? (forwarding && { upstream, ...forwarding })
}

/** Where both are configured, the one that the state does not speak of. */
function otherRoad(status) {
  const { upstream, forwarding, edge, state } = status
  if (!forwarding || !edge || state === "held") return null
  return road(status) === edge
    ? { name: "Analytics", upstream, ...forwarding }
    : { name: "Edge", ...edge }
}

/** Nothing was sent there yet, so that nobody knows. */
const isFresh = (one) => one.link === "suspect" && !one.last_failure && !one.last_delivery_ms

function besideIt(other, since) {
  if (isFresh(other)) return `${other.name} ready`
  if (other.link !== "offline") return `${other.name} ${other.link}`
  const left = (other.next_try_seconds ?? 0) - since
  return `${other.name} offline, ${left > 0.5 ? `next try in ${span(left)}` : "trying now"}`
}

const isDown = (status) => otherRoad(status)?.link === "offline"

/** All that was heard of failures, for who asks. */
const failures = ({ forwarding, edge }) =>
  [forwarding?.last_failure, edge?.last_failure].filter(Boolean).join("; Edge: ")

const isWaiting = (status) =>
  road(status) !== null &&
  (status.state === "offline" || status.state === "online") &&
  road(status).next_try_seconds !== null

const FAILURES = [
  [/ConnectionRefused|Connect call failed|refused/i, "connection refused"],
  [/gaierror|name resolution|Name or service|DNS/i, "its name is not found"],
  [/certificate|ssl:(?!default)|TLS/i, "TLS failed"],
  [/timed? ?out/i, "no answer in time"],
]

/** A failure in a few words; all of them stand on Health, and here on hover. */
function because(failure) {
  if (!failure) return ""
  const known = FAILURES.find(([of]) => of.test(failure))
  return ` (${known ? known[1] : failure.slice(0, 100)})`
}

/** The daemon has just started: what it counts as no link is only one that nobody has used yet. */
const isUntried = (status) =>
  status.state === "offline" && road(status)?.link === "suspect" && !road(status).last_failure

const host = (one) => (one?.upstream ?? "").replace(/^https?:\/\//, "")

/** What is to be said of the other road: only that it is down. */
function elsewhere(status) {
  if (!isDown(status)) return ""
  const other = otherRoad(status)
  const since = clock(other.since_ms)
  return `; ${other.name} is offline since ${since}: ${host(other)} cannot be reached${because(other.last_failure)}`
}

/** The state in a sentence; the part before the bar is its name. */
function said(status) {
  const { state } = status
  const forwarding = road(status)
  const to = host(forwarding)
  switch (state) {
    case "capture":
      return "Capture only|: hits are kept and shown here, nothing is sent to Adobe"
    case "online":
      return `Online|: delivering to ${to}${elsewhere(status)}`
    case "offline": {
      if (isUntried(status)) return `Ready|: nothing has been sent to ${to} yet`
      const since = forwarding?.since_ms ? ` since ${clock(forwarding.since_ms)}` : ""
      return `Offline|${since}: ${to} cannot be reached${because(forwarding?.last_failure)}${elsewhere(status)}`
    }
    case "held": {
      const until = forwarding?.held_until_ms
      return `Held offline by you|${until ? ` until ${clock(until)}` : " until you go online"}: nothing is sent, nothing is lost`
    }
    case "refusing":
      return `Refusing hits (503)|: ${status.refusing ?? "they cannot be stored"}. Apps that retry will hold them`
    default:
      return `${state}|`
  }
}
