// Light, dark, or as the system.

const THEMES = ["system", "light", "dark"];
const KEY = "skipguide-theme";

function kept() {
  try {
    return localStorage.getItem(KEY) ?? "system";
  } catch { // a browser that keeps nothing for files
    return "system";
  }
}

export function applyTheme(name = kept()) {
  document.documentElement.dataset.theme = THEMES.includes(name) ? name : "system";
  const shown = document.getElementById("theme");
  if (shown) shown.textContent = document.documentElement.dataset.theme;
}

export function nextTheme() {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  try {
    localStorage.setItem(KEY, next);
  } catch { /* as above */ }
  applyTheme(next);
}
