/* What to do when nothing has come yet: one command, one button, the setting of each client.

Rule: the addresses are those of this daemon, as far as it tells them.
Source: Adobe's pages "trackingServer", "trackingServerSecure"; `docs/see-my-hits.md` has more. */

import { get, post } from "./ask.js"
import { copy } from "./dialogs.js"
import { h, put } from "./dom.js"

/** What to do when nothing has come yet. */
export async function begin(place, app) {
  let listen = null
  let suite = null
  try {
    listen = (await get("config")).values.listen
    suite = (await get("suites")).suites.find((one) => one.listed)?.suite
  } catch {
    // Then the address is the usual one, and so is the suite.
  }
  const send = () => app.attempt(() => post("test-hit", suite ? { suite } : {}))
  const beacons = whole(listen?.address?.value) ?? "127.0.0.1:8277"
  const tls = whole(listen?.tls_address?.value)
  const curl = `curl 'http://${beacons}/b/ss/${suite ?? "examplersid"}/1/s1?AQB=1&pageName=Home&AQE=1'`
  const setting = (who, how) => h("tr", {}, h("th", { scope: "row" }, who), h("td", {}, how))
  const code = (text) => h("code", {}, text)
  const off = ["which needs the TLS listener: set ", code("listen.tls_address")]
  put(
    place,
    h("h2", {}, "No hits yet"),
    h(
      "p",
      {},
      "Listening on ",
      code(`http://${beacons}`),
      tls ? [" and ", code(`https://${tls}`)] : null,
      ".",
    ),
    h(
      "p",
      { class: "line" },
      code(curl),
      h("button", { type: "button", onclick: (event) => copy(curl, event.currentTarget) }, "Copy"),
      h("button", { type: "button", class: "strong", onclick: send }, "Send a test hit"),
    ),
    h("h3", {}, "Point your app at it"),
    h(
      "table",
      { class: "plain" },
      h(
        "thead",
        {},
        h("tr", {}, h("th", { scope: "col" }, "Client"), h("th", { scope: "col" }, "Setting")),
      ),
      h(
        "tbody",
        {},
        setting("AppMeasurement", [
          code(`s.trackingServer = "${beacons}"`),
          "; on https pages ",
          tls
            ? code(`s.trackingServerSecure = "${tls}"`)
            : [code("s.trackingServerSecure"), ", ", off],
        ]),
        setting("AEP Mobile SDK", [
          code("analytics.server"),
          tls ? [": ", code(tls)] : [", ", off],
          "; it always uses https",
        ]),
        setting("Server code, scripts", "the host of the request's URL"),
      ),
    ),
    h(
      "details",
      {},
      h("summary", {}, "It doesn't show up?"),
      h(
        "ul",
        {},
        h(
          "li",
          {},
          "The mobile SDK, and every https page, want TLS: set ",
          code("listen.tls_address"),
          ", ",
          code("tls_cert"),
          " and ",
          code("tls_key"),
          ".",
        ),
        h(
          "li",
          {},
          "From version 142 on Chrome asks the visitor whether a public site may reach this machine; without that permission the request never leaves, and a page without https is not even asked.",
        ),
        h(
          "li",
          {},
          "In the Android emulator this machine is ",
          code("10.0.2.2"),
          "; another device needs ",
          code('listen.address = "0.0.0.0:8277"'),
          ".",
        ),
        h(
          "li",
          {},
          "A page's Content-Security-Policy must allow the address in ",
          code("img-src"),
          " and ",
          code("connect-src"),
          ".",
        ),
      ),
    ),
  )
}

/** An address as text, however the configuration shows it. */
function whole(value) {
  if (!value) return null
  return typeof value === "string" ? value : `${value.host}:${value.port}`
}
