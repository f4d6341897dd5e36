// Behaviour that htmx has no attribute for.
"use strict";

(() => {
  const report = document.getElementById("report");
  const live = document.getElementById("live");
  if (!report || !live) return;

  // Hold the report while somebody types in it, or asked to.
  const isTyping = () => report.contains(document.activeElement) && document.activeElement.matches("input, select");
  let isStale = false;

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt !== report || !report.dataset.loaded) return;
    if (live.checked && !isTyping()) return;
    isStale = true;
    document.getElementById("held").hidden = !live.checked;
    event.preventDefault();
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target === report) report.dataset.loaded = "yes";
  });

  const refresh = () => {
    if (!isStale || !live.checked || isTyping()) return;
    isStale = false;
    document.getElementById("held").hidden = true;
    window.htmx.trigger(report, "refresh");
  };
  live.addEventListener("change", refresh);
  report.addEventListener("focusout", () => setTimeout(refresh));
})();
