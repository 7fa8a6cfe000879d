// The script of every page: tables, keys, theme, content loaded on demand, live parts.
// It inserts text only as text, and HTML only from our own server, parsed by DOMParser, which runs no scripts.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  // The token in the address is for the first request only: it must not stay in the history or in a copied link.
  const address = new URL(location.href);
  if (address.searchParams.has("token")) {
    address.searchParams.delete("token");
    history.replaceState(null, "", address);
  }

  // ---- light and dark
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("toolrl-theme", value);
      return localStorage.getItem("toolrl-theme");
    } catch { return value ?? null; }  // a page without an origin has no storage
  };
  const setTheme = (theme) => { if (theme) document.documentElement.dataset.theme = theme; };
  setTheme(remembered());
  const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const switchTheme = () => { const theme = isDark() ? "light" : "dark"; setTheme(theme); remembered(theme); };
  one(".theme")?.addEventListener("click", switchTheme);

  // ---- a table that sorts, filters and opens rows in the browser
  const table = one("table.sortable");
  const rows = table ? all("tbody tr", table) : [];
  const close = (row) => { if (row.nextElementSibling?.classList.contains("opened")) row.nextElementSibling.remove(); row.setAttribute("aria-expanded", "false"); };
  const open = (row) => {
    const template = document.getElementById(`episode-${row.dataset.episode}`);
    if (!template) return;
    if (row.getAttribute("aria-expanded") === "true") return close(row);
    const opened = document.createElement("tr");
    const cell = opened.appendChild(document.createElement("td"));
    opened.className = "opened";
    cell.colSpan = row.cells.length;
    cell.append(template.content.cloneNode(true));
    row.after(opened);
    row.setAttribute("aria-expanded", "true");
  };
  for (const row of rows) row.addEventListener("click", () => { if (!String(getSelection())) open(row); });
  if (table) {
    const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    all("thead th", table).forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.forEach(close);
      const missing = (value) => value === "" || value === "None";
      rows.sort((a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }));
    const words = one("#words");
    words?.addEventListener("input", () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase() + all("[aria-label]", row).map((mark) => mark.getAttribute("aria-label")).join(" ");
        const fits = wanted.every((word) => text.includes(word));
        if (!fits) close(row);
        row.classList.toggle("hidden", !fits);
        count += fits;
      }
      one("#found").textContent = `${count} of ${rows.length} episodes`;
    });
  }

  // ---- tokens: the exact id at once, without the delay of a tooltip
  document.addEventListener("pointerover", (event) => {
    const token = event.target.closest?.(".run > span");
    if (token) token.closest(".tokens").querySelector(".readout").textContent = token.title;
  });

  // ---- the rest of a long text, fetched on demand
  const fetched = async (url) => {
    const reply = await fetch(url, { credentials: "same-origin" });
    if (reply.status === 304) return null;
    if (!reply.ok) throw new Error(String(reply.status));
    return new DOMParser().parseFromString(await reply.text(), "text/html");
  };
  document.addEventListener("click", async (event) => {
    const link = event.target.closest?.("a.more");
    if (!link) return;
    event.preventDefault();
    const page = await fetched(link.href).catch(() => null);
    if (page) link.closest(".rest").replaceWith(...all("#piece > *", page).map((node) => document.adoptNode(node)));
  });

  // ---- live parts: what changes while a run continues
  for (const part of all("[data-refresh]")) {
    let shown = part.dataset.version;
    const refresh = async () => {
      if (!document.hidden) {
        try {
          const page = await fetched(`${part.dataset.refresh}&known=${encodeURIComponent(shown)}`);
          const fresh = page && page.getElementById(part.id);
          if (fresh && fresh.dataset.version !== shown) {
            shown = fresh.dataset.version;
            const held = part.contains(document.activeElement) && document.activeElement.href;
            part.replaceChildren(...[...fresh.childNodes].map((node) => document.adoptNode(node)));
            if (held) all("a", part).find((link) => link.href === held)?.focus({ preventScroll: true });
          }
        } catch { /* the server has stopped or is busy: try again later */ }
      }
      setTimeout(refresh, 2000);
    };
    setTimeout(refresh, 2000);
  }

  // ---- keys: they move the focus, from where the browser's own keys continue
  const steps = () => rows.length ? rows.filter((row) => !row.classList.contains("hidden")) : all("[data-step]");
  const move = (by) => {
    const list = steps();
    if (!list.length) return;
    const now = list.findIndex((row) => row.contains(document.activeElement));
    const next = list[now < 0 ? 0 : Math.max(0, Math.min(list.length - 1, now + by))];
    (next.matches("[tabindex]") ? next : one("a", next))?.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  };
  const follow = (relation) => {
    const link = one(`a[rel="${relation}"]`);
    if (link) location.href = link.href;
    return Boolean(link);
  };
  const help = one("#help");
  one("#help-button")?.addEventListener("click", () => help.showModal());
  one("#help-close")?.addEventListener("click", () => help.close());
  const acts = {
    j: () => follow("next") || move(1),
    k: () => follow("prev") || move(-1),
    g: () => follow("group"),
    t: switchTheme,
    o: () => { const tokens = one("details.tokens"); if (tokens) { tokens.open = !tokens.open; tokens.scrollIntoView(); } },
    "/": () => { const box = one("input[type=search]"); box?.focus(); box?.select(); },
    "?": () => help?.showModal(),
    Escape: () => follow("up"),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help?.open) return;
    if (event.target.matches?.("input:not([type=radio]), select")) {
      if (event.key === "Escape") event.target.blur();
    } else if (event.key === "Enter" && event.target.matches?.("tr[data-episode]")) {
      open(event.target);
    } else if (Object.hasOwn(acts, event.key)) {
      event.preventDefault();
      acts[event.key]();
    }
  });
})();
