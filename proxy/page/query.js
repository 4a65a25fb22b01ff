/* The filter: the words a person types, and what the page adds to them.

Rule: the daemon reads filters, the page does not; here a term is only found, to be taken out
or put in. The language is the same in the box, on the command line and in the API. */

const TERM = /!?(?:[A-Za-z][\w.-]*:)?(?:"(?:\\.|[^"\\])*"?|\S+)/g

export const STATES = ["waiting", "sending", "held", "delivered", "dead"]

/** The state that a filter asks for, "" for any, null when it is more than one word about it. */
export function stateOf(q) {
  const about = terms(q).filter(isAboutState)
  if (!about.length) return ""
  const found = /^(?:state|is):(\w+)$/.exec(about[0])
  return about.length === 1 && found && STATES.includes(found[1]) ? found[1] : null
}

export const withoutState = (q) =>
  terms(q)
    .filter((one) => !isAboutState(one))
    .join(" ")

/** The filter for one state; what is held or being sent is waiting too. */
export function withState(q, state) {
  const term = state === "waiting" ? "is:waiting" : state ? `state:${state}` : ""
  return `${withoutState(q)} ${term}`.trim()
}

/** The filter for one span of time. */
export function withTime(q, time) {
  const others = terms(q).filter((one) => !/^(after|before|newer|older):/.test(one))
  return [...others, time].join(" ")
}

/** A value of which nothing is read as more than itself. */
export const quoted = (value) => `"${value.replace(/[\\"]/g, "\\$&")}"`

const terms = (q) => q.match(TERM) ?? []
const isAboutState = (term) =>
  /^!?(state|is):(waiting|sending|held|delivered|dead|\w+\|)/.test(term)

export const HELP = [
  ["suite:examplersid", "the report suite"],
  ["page:Checkout*", "the page name; * stands for anything, and then it is the whole value"],
  ["event:purchase", "the whole name of an event"],
  ["evar12: prop5: list1: campaign:", "a variable, by Adobe's name or as it is sent (v12, c5)"],
  ["ctx.cart.size:3", "context data"],
  ["visitor: mid: vid: fid:", "a visitor's id"],
  ["type:link|exit", "page, link, exit, download, media, other"],
  ["state:dead", "waiting, sending, held, delivered, dead; is:waiting takes the first three"],
  ["has:finding rule:W4", "what is wrong with it; also has:products, has:events, has:note"],
  ["ts:late", "late; ts:sent and ts:none tell whether the client set a time"],
  ["newer:10m after: before:", "when it was received: 30s, 2h, 7d; 2026-02-02T10:30"],
  ["reason:404", "why it is held or dead"],
  ["boots", "a bare word is looked for in every value"],
  ['"Help centre"', "exactly this, the whole value"],
  ["!is:delivered", "not"],
]
