// Everything works without this; with it, what has data-live is loaded again every so many milliseconds.
"use strict";
(() => {
  const area = document.querySelector("[data-live]");
  if (!area) return;
  const told = document.getElementById("refreshing");
  const button = document.getElementById("pause");
  const every = Number(area.dataset.live);
  let paused = false;
  let failed = false;
  let last = new Date();

  const clock = (at) => at.toISOString().slice(11, 19);

  function say(text) {
    told.textContent = text;
    told.hidden = !text;
  }

  // What a person has opened, chosen or is at must survive the exchange.
  function keyOf(element) {
    if (element.id) return "#" + CSS.escape(element.id);
    const address = element.getAttribute("href");
    return address && `${element.localName}[href="${CSS.escape(address)}"]`;
  }

  function exchange(html) {
    const focused = area.contains(document.activeElement) ? keyOf(document.activeElement) : null;
    const opened = [...area.querySelectorAll("details[open][id]")].map((one) => one.id);
    const scrolled = [...area.querySelectorAll("pre")].map((one) => [one.scrollLeft, one.scrollTop]);
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    document.querySelector(".tie").replaceWith(fresh.content.querySelector(".tie"));
    area.replaceChildren(fresh.content);
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    area.querySelectorAll("pre").forEach((one, index) => {
      if (scrolled[index]) [one.scrollLeft, one.scrollTop] = scrolled[index];
    });
    if (focused) area.querySelector(focused)?.focus({ preventScroll: true });
  }

  function busy() {
    return paused || document.hidden || area.querySelector("input:checked")
      || (!getSelection().isCollapsed && area.contains(getSelection().anchorNode));
  }

  async function refresh() {
    try {
      if (!busy()) {
        const answer = await fetch(location.href, {
          headers: { "X-Fragment": "live" }, redirect: "error", signal: AbortSignal.timeout(10000),
        });
        if (answer.status === 401) return location.reload();
        const html = await answer.text();
        if (!answer.ok) throw new Error(String(answer.status));
        if (!busy()) exchange(html);
        last = new Date();
        if (failed) say("");
        failed = false;
      }
    } catch {
      failed = true;
      say(`No answer from the console: this is what was at ${clock(last)} UTC.`);
    }
    return setTimeout(refresh, every);
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Go on with updates" : "Pause updates";
    button.setAttribute("aria-pressed", String(paused));
    say(paused ? `Paused at ${clock(new Date())} UTC.` : "");
  });
  setTimeout(refresh, every);
})();
