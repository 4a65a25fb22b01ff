/* What the page asks of the daemon, over its API.

Rule: an answer that is no success is thrown as a `Problem` whose message can be shown.
Non-rule: keeps no token; the cookie is none of a script's business.
Source: RFC 9457. */

export class Problem extends Error {
  constructor(status, said) {
    super(said.detail || said.title || `the daemon answered ${status}`)
    this.status = status
    this.column = said.column ?? null
  }
}

let whenLocked = () => {}

/** Called when the daemon wants a token. */
export function onLocked(call) {
  whenLocked = call
}

export async function get(path, given = {}, signal = undefined) {
  return (await answer(address(path, given), { signal })).json()
}

export async function text(path, given = {}) {
  return (await answer(address(path, given), {})).text()
}

export async function post(path, said = {}) {
  const headers = { "Content-Type": "application/json" }
  return (
    await answer(address(path), { method: "POST", headers, body: JSON.stringify(said) })
  ).json()
}

export function address(path, given = {}) {
  const said = Object.entries(given).filter(([, value]) => value !== null && value !== "")
  const query = new URLSearchParams(said).toString()
  return `/api/v1/${path}${query ? `?${query}` : ""}`
}

async function answer(url, how) {
  let found
  try {
    found = await fetch(url, { cache: "no-store", ...how })
  } catch (error) {
    if (error.name === "AbortError") throw error
    throw new Problem(0, { detail: "the daemon does not answer" })
  }
  if (found.ok) return found
  const said = await found.json().catch(() => ({}))
  if (found.status === 401 && !url.endsWith("/login")) whenLocked()
  throw new Problem(found.status, said)
}
