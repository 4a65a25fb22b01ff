/* The page: which screen is shown, what is live on it, and the keys.

Rule: the address says what is shown, so that it can be kept, sent and gone back to. One
screen at a time; each is told of events while it is shown and of nothing afterwards.
Non-rule: decides nothing about hits; it shows what the API answers. */

import { get, onLocked, post } from "./ask.js"
import { Band } from "./band.js"
import { Dead } from "./dead.js"
import { $, h, put } from "./dom.js"
import { Health } from "./health.js"
import { Hits } from "./hits.js"
import { Keys } from "./keys.js"
import { Live } from "./live.js"
import { Overview } from "./overview.js"
import { number } from "./words.js"

const CHIPS = {
  live: ["●", "Live", "The page follows what the daemon does"],
  lost: ["○", "Reconnecting…", "The daemon does not answer; what is shown may be old"],
  away: ["‖", "Paused", "Nothing is followed while this page is hidden"],
}
const SCREENS = [
  [/^\/$/, "Overview", Overview],
  [/^\/hits(?:\/[0-9]+)?$/, "Hits", Hits],
  [/^\/dead$/, "Dead letters", Dead],
  [/^\/health$/, "Health", Health],
]

const main = $("main")

/** What the screens share: the last status, the way to another screen, what went wrong. */
const app = {
  status: null,
  screen: null,
  name: "",
  isLocked: false,

  go(url, replace = false) {
    history[replace ? "replaceState" : "pushState"](null, "", url)
    show()
  },

  /** Do what a person asked for; if it fails, say why where it can be read. */
  async attempt(what) {
    put($("fault")).hidden = true
    try {
      return await what()
    } catch (error) {
      if (!app.isLocked) put($("fault"), `That did not work: ${error.message}.`).hidden = false
      $("fault").focus()
      return undefined
    }
  },

  told(status) {
    app.status = status
    band.show(status)
    const dead = status.dead ?? 0
    put($("dead-count"), dead ? ` ${number(dead)}` : "")
    const called = status.label ? ` · ${status.label}` : ""
    if (called) put($("label"), called)
    document.title = `${dead ? `(${number(dead)} dead) ` : ""}${app.name}${called} · trackoffline`
    app.screen?.status?.(status)
  },

  async refresh() {
    app.told(await get("status"))
  },
}

const band = new Band(app)
const keys = new Keys(app)
const live = new Live({
  status: (status) => app.told(status),
  hits: (change) => app.screen?.hits?.(change),
  again: () => app.screen?.again?.(),
  chip: say,
  refused: () => app.refresh().catch(() => {}),
})

function say(chip) {
  const [shape, word, meaning] = CHIPS[chip]
  const element = $("chip")
  element.className = `chip ${chip}`
  element.title = meaning
  put(element, h("i", { "aria-hidden": "true" }, shape), word)
  document.body.classList.toggle("stale", chip === "lost")
}

function show() {
  if (app.isLocked) return
  const url = new URL(location.href)
  const [, name, Screen] = SCREENS.find(([path]) => path.test(url.pathname)) ?? SCREENS[0]
  for (const link of document.querySelectorAll("#screens a")) {
    if (link.pathname === `/${url.pathname.split("/")[1]}`)
      link.setAttribute("aria-current", "page")
    else link.removeAttribute("aria-current")
  }
  if (app.screen instanceof Screen) {
    app.screen.moved(url)
    return
  }
  const wasThere = app.screen !== null
  app.screen?.gone?.()
  put($("fault")).hidden = true
  app.name = name
  document.title = `${name} · trackoffline`
  main.className = name.split(" ")[0].toLowerCase()
  app.screen = new Screen(app, main, url)
  if (app.status) app.told(app.status)
  if (wasThere) main.focus({ preventScroll: true })
  main.scrollTop = 0
}

/** Links to our own screens do not load the page anew. */
function follow(event) {
  if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey)
    return
  const link = event.target.closest("a[href]")
  if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin)
    return
  if (link.hash && link.pathname === location.pathname) return
  if (!SCREENS.some(([path]) => path.test(link.pathname))) return
  event.preventDefault()
  app.go(link.pathname + link.search)
}

/** A menu closes when something else is pressed, or one of its own. */
function unfold(event) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!event.target.closest("summary") || !menu.contains(event.target)) menu.open = false
  }
}

function lock() {
  if (app.isLocked) return
  app.isLocked = true
  live.stop()
  app.screen?.gone?.()
  app.screen = null
  const token = h("input", {
    id: "token",
    type: "password",
    autocomplete: "current-password",
    required: true,
  })
  const wrong = h("p", { id: "wrong", class: "bad" })
  put(
    main,
    h(
      "form",
      {
        class: "login",
        onsubmit: async (event) => {
          event.preventDefault()
          try {
            await enter(token.value)
          } catch (error) {
            put(wrong, `${error.message}.`)
            token.select()
          }
        },
      },
      h("h1", {}, "This page wants its token"),
      h("p", {}, "It stands in the file that ", h("code", {}, "admin.token_file"), " names."),
      h(
        "p",
        {},
        h("label", { for: "token" }, "Token "),
        token,
        h("button", { class: "strong" }, "Open"),
      ),
      wrong,
    ),
  )
  main.className = "locked"
  token.setAttribute("aria-describedby", "wrong")
  token.focus()
}

async function enter(token) {
  await post("login", { token })
  app.isLocked = false
  await begin()
}

async function begin() {
  app.screen = null
  put(main)
  show()
  try {
    await app.refresh()
  } catch (error) {
    if (!app.isLocked) say("lost")
  }
  if (!app.isLocked) live.start()
}

async function start() {
  put($("label"), ` · ${location.host}`)
  const theme = $("theme")
  const name = (now) =>
    put(theme, now[0].toUpperCase() + now.slice(1)).setAttribute("aria-label", `Theme: ${now}`)
  name(window.theme.now)
  theme.addEventListener("click", () => name(window.theme.next()))
  $("help").addEventListener("click", () => keys.help())
  document.addEventListener("click", follow)
  document.addEventListener("click", unfold)
  document.addEventListener("keydown", (event) => keys.pressed(event))
  addEventListener("popstate", show)
  onLocked(lock)
  const given = new URLSearchParams(location.hash.slice(1)).get("token")
  if (given !== null) {
    // The token must not stay in the address, nor in the history.
    history.replaceState(null, "", location.pathname + location.search)
    try {
      await post("login", { token: given })
    } catch {
      // Then the form asks for it; or none is needed.
    }
  }
  await begin()
}

start()
