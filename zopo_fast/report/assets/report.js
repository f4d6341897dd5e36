/* Tables and charts of a report. Data become text nodes only, never markup. */
"use strict";
(() => {
  const PAGE = 15; // rows of a page
  const PROMPTS = { rank: 0, number: 1, text: 2, score: 3, interval: 4, examples: 5, calls: 6, tokens: 7, money: 8, how: 9, asked: 10, from: 11 };
  const NUMERIC = new Set([0, 1, 3, 5, 6, 7, 8, 10]);
  // Kept over the swaps of a live page: what the reader has typed and chosen.
  const kept = new Map();

  const remember = (name, initial) => {
    if (!kept.has(name)) kept.set(name, initial);
    return kept.get(name);
  };

  const element = (tag, properties = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  };

  const figure = (value, digits) => (value === null ? "–" : value.toFixed(digits));

  async function read(block) {
    if (block.dataset.encoding === "json") return JSON.parse(block.textContent);
    const bytes = Uint8Array.from(atob(block.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  /* A table with pages. `rows` returns what the search and the filter leave, in order. */
  function paged(root, name, state, rows, draw, omitted = 0) {
    const table = root.querySelector(`[data-table="${name}"]`);
    const status = root.querySelector(`[data-status="${name}"]`);
    const pager = root.querySelector(`[data-pager="${name}"]`);
    const show = () => {
      const found = rows();
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      state.page = Math.min(Math.max(state.page, 0), pages - 1);
      const first = state.page * PAGE;
      const some = found.slice(first, first + PAGE);
      table.tBodies[0].replaceChildren(...some.map(draw));
      const last = first + some.length;
      status.textContent = found.length ? `${first + 1} to ${last} of ${found.length.toLocaleString("en")}${omitted ? `; ${omitted.toLocaleString("en")} more that were not asked are left out` : ""}` : "nothing found";
      pager.hidden = pages === 1;
      const [previous, next] = pager.querySelectorAll("button");
      previous.disabled = state.page === 0;
      next.disabled = state.page === pages - 1;
    };
    for (const button of pager.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        state.page += Number(button.dataset.step);
        show();
      });
    }
    const search = root.querySelector(`[data-search="${name}"]`);
    search.value = state.search;
    search.addEventListener("input", () => {
      state.search = search.value;
      state.page = 0;
      show();
    });
    search.closest(".controls").hidden = false;
    return show;
  }

  function promptTable(root, data) {
    const table = root.querySelector('[data-table="prompts"]');
    if (!table) return;
    const state = remember("prompts", { search: "", page: 0, column: 0, down: false, open: new Set() });
    const heads = [...table.tHead.rows[0].cells];
    const hidden = data.hasCost ? [] : [PROMPTS.money];
    for (const column of hidden) heads[column].hidden = true;

    const compare = (a, b) => {
      const [x, y] = [a[state.column], b[state.column]];
      if (x === y) return a[1] - b[1];
      if (x === null) return 1; // last in either direction
      if (y === null) return -1;
      const order = NUMERIC.has(state.column) ? parseFloat(x) - parseFloat(y) : String(x).localeCompare(String(y));
      return state.down ? -order : order;
    };
    const rows = () => {
      const word = state.search.trim().toLowerCase();
      const found = word ? data.prompts.filter((row) => row[PROMPTS.text].toLowerCase().includes(word) || String(row[1]) === word) : [...data.prompts];
      return found.sort(compare);
    };
    const SHORT = 180;
    const text = (row) => {
      const whole = row[PROMPTS.text];
      if (whole.length <= SHORT) return element("td", { className: "text" }, whole);
      const isOpen = state.open.has(row[1]);
      const button = element("button", { type: "button", className: "more", ariaExpanded: String(isOpen) }, isOpen ? "less" : "more");
      button.setAttribute("aria-label", `${isOpen ? "less" : "more"} of prompt ${row[1]}`);
      button.addEventListener("click", () => {
        state.open[isOpen ? "delete" : "add"](row[1]);
        const made = draw(row);
        button.closest("tr").replaceWith(made);
        made.querySelector("button.more").focus();
      });
      return element("td", { className: "text" }, isOpen ? whole : `${whole.slice(0, SHORT)}… `, button);
    };
    // A link to the texts of the parents, where the page shows them.
    const from = (parents, number) => {
      if (!heads[PROMPTS.from]) return null;
      if (parents === null) return element("td", {}, "–");
      const target = `grown-${number}`;
      const shown = parents.join(", ") || "–";
      if (!root.querySelector(`#${target}`)) return element("td", {}, shown);
      const link = element("a", { href: `#${target}` }, shown);
      link.addEventListener("click", () => {
        root.querySelector(`#${target}`).open = true;
      });
      return element("td", {}, link);
    };
    const draw = (row) =>
      element(
        "tr",
        {},
        ...row.map((value, column) => {
          if (hidden.includes(column)) return null;
          if (column === PROMPTS.text) return text(row);
          if (column === PROMPTS.from) return from(value, row[1]);
          if (column === PROMPTS.interval) return element("td", {}, value === null ? "–" : `${figure(value[0], 2)} to ${figure(value[1], 2)}`);
          if (column === PROMPTS.score) return element("td", { className: "number" }, figure(value, 3));
          if (column === PROMPTS.money) return element("td", { className: "number" }, figure(value, 4));
          return element("td", { className: NUMERIC.has(column) ? "number" : "how" }, value === null ? "–" : String(value));
        }),
      );
    const show = paged(root, "prompts", state, rows, draw, data.omitted);
    const mark = () => {
      heads.forEach((head, column) => {
        if (column !== PROMPTS.interval) head.setAttribute("aria-sort", column === state.column ? (state.down ? "descending" : "ascending") : "none");
      });
    };
    heads.forEach((head, column) => {
      if (column === PROMPTS.interval) return;
      const button = element("button", { type: "button", title: `Sort by ${head.textContent}` }, head.textContent);
      button.addEventListener("click", () => {
        state.down = state.column === column ? !state.down : NUMERIC.has(column) && column > 1 && column !== PROMPTS.asked;
        state.column = column;
        state.page = 0;
        mark();
        show();
      });
      head.replaceChildren(button);
    });
    mark();
    show();
  }

  function answerTable(root, data) {
    const table = root.querySelector('[data-table="answers"]');
    if (!table) return;
    const state = remember("answers", { search: "", page: 0, filter: "all" });
    const scoreOf = (row, side) => row.answers[side]?.score ?? null;
    const filters = {
      all: () => true,
      wrong: (row) => scoreOf(row, 0) !== null && scoreOf(row, 0) < 1,
      differ: (row) => row.answers[1] !== null && scoreOf(row, 0) !== scoreOf(row, 1),
      heldout: (row) => row.part === "heldout",
      train: (row) => row.part === "train",
    };
    const rows = () => {
      const word = state.search.trim().toLowerCase();
      const holds = (row) => [row.input, row.expected, ...row.answers.map((each) => each?.text ?? "")].some((each) => each.toLowerCase().includes(word));
      return data.answers.filter((row) => filters[state.filter](row) && (!word || holds(row)));
    };
    const answer = (given) => {
      if (given === null) return element("td", { className: "answer" }, "–");
      const isRight = given.score !== null && given.score >= 1;
      const label = given.score === null ? "no score" : isRight ? "✓ right" : given.score <= 0 ? "✗ wrong" : figure(given.score, 2);
      const mark = element("span", { className: `mark ${isRight ? "right" : "wrong"}` }, label);
      const end = given.cut ? element("span", { className: "mark wrong", title: "ends at the length limit" }, "cut") : null;
      return element("td", { className: "answer" }, mark, end, given.text ?? "(not in the study)");
    };
    const draw = (row) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, `${row.part === "heldout" ? "held-out" : "train"} ${row.index}`),
        element("td", { className: "text" }, row.input),
        element("td", {}, row.expected),
        answer(row.answers[0]),
        data.rival === null ? null : answer(row.answers[1]),
      );
    const show = paged(root, "answers", state, rows, draw);
    const filter = root.querySelector('[data-filter="answers"]');
    filter.value = state.filter;
    filter.addEventListener("change", () => {
      state.filter = filter.value;
      state.page = 0;
      show();
    });
    show();
  }

  async function drawCharts(root, data) {
    const options = {
      renderer: "svg",
      actions: false,
      ast: true, // no evaluation of code: a strict Content-Security-Policy forbids it
      defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    };
    for (const box of root.querySelectorAll("[data-chart]")) {
      const name = box.dataset.chart;
      if (!(name in data.charts)) continue;
      const { view } = await window.vegaEmbed(box, data.charts[name], options);
      // The box is an image with a label; the marks inside have none of their own.
      box.querySelector("svg")?.setAttribute("aria-hidden", "true");
      const choices = root.querySelector(`[data-axis="${name}"]`);
      if (!choices) continue;
      const state = remember(`axis ${name}`, { value: "prompts" });
      const choose = (value) => {
        state.value = value;
        for (const button of choices.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.value === value));
        view.signal("spent", value).runAsync();
      };
      for (const button of choices.querySelectorAll("button")) button.addEventListener("click", () => choose(button.dataset.value));
      choices.hidden = false;
      if (state.value !== "prompts") choose(state.value);
    }
  }

  function copyButtons(root) {
    for (const button of root.querySelectorAll("[data-copy]")) {
      if (!navigator.clipboard) continue;
      button.hidden = false;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        const label = button.textContent;
        button.textContent = "Copied";
        setTimeout(() => (button.textContent = label), 1500);
      });
    }
  }

  async function start(root) {
    if (root.dataset.started) return;
    root.dataset.started = "yes";
    copyButtons(root);
    const block = root.querySelector(".report-data");
    if (!block) return;
    const data = await read(block);
    if (data.prompts) promptTable(root, data);
    if (data.answers) answerTable(root, data);
    await drawCharts(root, data);
    root.dataset.ready = "yes";
  }

  const startAll = () => document.querySelectorAll("[data-report]").forEach((root) => void start(root));
  document.addEventListener("htmx:afterSwap", startAll);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll();
})();
