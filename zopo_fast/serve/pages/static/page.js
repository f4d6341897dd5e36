// Behaviour that htmx has no attribute for: updates of a report that do not disturb its reader.
"use strict";

(() => {
  const report = document.getElementById("report");
  if (!report) return;
  const live = document.getElementById("live"); // missing where nothing changes any more
  const held = document.getElementById("held");
  const MAX_DRAWING = 10000; // milliseconds
  let isStale = false;

  // Replacing the report would take the focus from its reader.
  const isUsed = () => {
    const focused = document.activeElement;
    return report.contains(focused) && focused.matches("input, select, :focus-visible");
  };
  const mayUpdate = () => !live || (live.checked && !isUsed());

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt !== report || !report.dataset.loaded || mayUpdate()) return;
    isStale = true;
    held.hidden = !live.checked;
    event.preventDefault();
  });

  const refresh = () => {
    if (!isStale || !mayUpdate()) return;
    isStale = false;
    held.hidden = true;
    window.htmx.trigger(report, "refresh");
  };
  live?.addEventListener("change", refresh);
  report.addEventListener("focusout", () => setTimeout(refresh));

  // The new report is drawn out of sight, and then takes the place of the old one.
  const show = (made) => {
    while (made.previousElementSibling) made.previousElementSibling.remove();
    made.classList.remove("drawing");
    report.dataset.loaded = "yes";
  };
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target !== report) return;
    const made = report.lastElementChild;
    if (!("report" in made.dataset)) return show(made);
    made.classList.add("drawing");
    const observer = new MutationObserver(() => {
      if (made.dataset.ready) finish();
    });
    const finish = () => {
      observer.disconnect();
      if (made.parentElement === report) show(made);
    };
    observer.observe(made, { attributes: true, attributeFilter: ["data-ready"] });
    setTimeout(finish, MAX_DRAWING);
  });
})();
