// The page works without this. With it, it is brought up to date in place: scrolling, focus and opened parts stay, a
// lost connection is said instead of shown as the browser's error page, and times are those of the reader's zone.
"use strict";
(() => {
  const everyMs = 1000 * Number(document.body.dataset.refresh);
  const format = new Intl.DateTimeFormat(undefined, {
    weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit",
  });

  function localTimes(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      time.title = time.textContent;
      time.textContent = format.format(new Date(time.dateTime));
    }
  }

  function keyOf(element) {
    return element.dataset.key || "";
  }

  function exchange(next) {
    const main = document.getElementById("content");
    const opened = new Map([...main.querySelectorAll("details[data-key]")].map((d) => [keyOf(d), d.open]));
    const focused = document.activeElement && main.contains(document.activeElement)
      ? document.activeElement.closest("[data-key]") && keyOf(document.activeElement.closest("[data-key]"))
      : null;
    const scrolled = new Map([...main.querySelectorAll(".scroll[data-key]")].map((d) => [keyOf(d), d.scrollLeft]));
    const fresh = document.importNode(next, true);
    localTimes(fresh);
    for (const details of fresh.querySelectorAll("details[data-key]")) {
      if (opened.has(keyOf(details))) details.open = opened.get(keyOf(details));
    }
    main.replaceWith(fresh);
    for (const part of fresh.querySelectorAll(".scroll[data-key]")) {
      part.scrollLeft = scrolled.get(keyOf(part)) || 0;
    }
    if (focused) {
      const again = [...fresh.querySelectorAll("[data-key]")].find((e) => keyOf(e) === focused);
      const target = again && (again.matches("a,summary") ? again : again.querySelector("a,summary"));
      if (target) target.focus({ preventScroll: true });
    }
  }

  async function refresh() {
    const lost = document.getElementById("lost");
    try {
      const response = await fetch(location.pathname, { cache: "no-store" });
      if (!response.ok && response.status !== 404) throw new Error(String(response.status));
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const next = page.getElementById("content");
      if (!next) throw new Error("no page");
      exchange(next);
      document.title = page.title;
      lost.hidden = true;
    } catch (error) {
      if (lost.hidden) document.getElementById("lost-since").textContent = format.format(new Date());
      lost.hidden = false;
    } finally {
      setTimeout(refresh, everyMs);
    }
  }

  localTimes(document);
  setTimeout(refresh, everyMs);
})();
