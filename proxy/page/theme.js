/* Light, dark, or as the system is: before the first paint, so that nothing flashes.

Rule: a choice is kept in this browser, and nothing else is. */
{
  const KEY = "trackoffline.theme"
  const THEMES = ["system", "light", "dark"]
  const read = () => {
    try {
      const kept = localStorage.getItem(KEY)
      return THEMES.includes(kept) ? kept : "system"
    } catch {
      return "system" // storage may be forbidden; then the choice lasts as long as the page
    }
  }
  let theme = read()
  const apply = () => {
    if (theme === "system") document.documentElement.removeAttribute("data-theme")
    else document.documentElement.setAttribute("data-theme", theme)
  }
  window.theme = {
    get now() {
      return theme
    },
    next() {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]
      try {
        localStorage.setItem(KEY, theme)
      } catch {
        // likewise
      }
      apply()
      return theme
    },
  }
  apply()
}
