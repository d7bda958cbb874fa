"use strict";
(() => {
  const all = (root, selector) => Array.from(root.querySelectorAll(selector));

  // Tables sort by the data-v of their cells; what has no value stays last.
  const key = (row, index) => row.children[index].dataset.v ?? "";
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const sort = (table, header) => {
    const index = header.cellIndex;
    const numbers = header.classList.contains("num");
    const first = numbers ? "descending" : "ascending";
    const second = numbers ? "ascending" : "descending";
    const direction = header.getAttribute("aria-sort") === first ? second : first;
    all(table, "thead th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows).sort((a, b) => {
      const x = key(a, index), y = key(b, index);
      if (x === "" || y === "") return (x === "") - (y === "");
      return sign * compare(x, y);
    });
    body.append(...rows);
  };
  all(document, "table[data-sortable]").forEach((table) => {
    all(table, "thead th[aria-sort] button").forEach((button) => {
      button.addEventListener("click", () => sort(table, button.closest("th")));
    });
  });

  // The confusion matrix: a grid to walk with the arrow keys, told in words below it.
  all(document, "table.matrix").forEach((table) => {
    const readout = document.getElementById(table.dataset.readout);
    const cells = () => Array.from(table.tBodies[0].rows, (row) => all(row, "td[tabindex]"));
    const tell = (cell) => {
      const row = cell.parentElement.dataset.name;
      const column = table.tHead.lastElementChild.cells[cell.cellIndex].dataset.name;
      const bold = (text) => Object.assign(document.createElement("b"), { textContent: text });
      const d = cell.dataset;
      const verb = row === column ? " was recognised: " : " was taken for ";
      const parts = row === column
        ? [bold(row), verb, bold(`${d.n} pixels`), `, ${d.r} of all ${row} and `]
        : [bold(row), verb, bold(column), ": ", bold(`${d.n} pixels`), `, ${d.r} of all ${row} and `];
      readout.replaceChildren(...parts, `${d.p} of what was called ${column}.`);
    };
    table.addEventListener("mouseover", (event) => {
      const cell = event.target.closest("td[tabindex]");
      if (cell) tell(cell);
    });
    table.addEventListener("focusin", (event) => {
      const cell = event.target.closest("td[tabindex]");
      if (!cell) return;
      all(table, 'td[tabindex="0"]').forEach((other) => { other.tabIndex = -1; });
      cell.tabIndex = 0;
      tell(cell);
    });
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td[tabindex]");
      if (cell) cell.focus({ preventScroll: true });
    });
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    table.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      const cell = event.target.closest("td[tabindex]");
      if (!step || !cell) return;
      const grid = cells();
      const y = grid.findIndex((row) => row.includes(cell));
      const next = grid[y + step[0]]?.[grid[y].indexOf(cell) + step[1]];
      event.preventDefault();
      if (next) next.focus();
    });
  });

  // Sliders over the pictures, and what lies on either side of them.
  all(document, ".stage").forEach((stage) => {
    const slider = stage.querySelector("input");
    const move = () => stage.style.setProperty("--at", `${slider.value}%`);
    slider.addEventListener("input", move);
    move();
  });
  const show = (gallery, left, right) => {
    all(gallery, ".layer").forEach((layer) => {
      layer.classList.toggle("on-left", layer.dataset.kind === left);
      layer.classList.toggle("on-right", layer.dataset.kind === right);
    });
    all(gallery, ".tag.left").forEach((tag) => { tag.textContent = left; });
    all(gallery, ".tag.right").forEach((tag) => { tag.textContent = right; });
    all(gallery, ".stage input").forEach((slider) => {
      slider.setAttribute("aria-label", `${left} to the left, ${right} to the right`);
    });
  };
  all(document, ".viewer").forEach((viewer) => {
    const buttons = all(viewer, "button[data-left]");
    buttons.forEach((button) => button.addEventListener("click", () => {
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      show(viewer, button.dataset.left, button.dataset.right);
    }));
    const strength = viewer.querySelector("input.strength");
    strength?.addEventListener("input", () => {
      viewer.style.setProperty("--strength", String(strength.value / 100));
    });
  });

  // Where the reader is.
  const links = new Map(all(document, "nav a").map((a) => [a.hash.slice(1), a]));
  const mark = () => {
    let current = null;
    for (const [id, link] of links) {
      link.removeAttribute("aria-current");
      if (document.getElementById(id).getBoundingClientRect().top < innerHeight * 0.35) current = link;
    }
    if (innerHeight + scrollY >= document.body.scrollHeight - 4) current = Array.from(links.values()).pop();
    if (!current) return;
    current.setAttribute("aria-current", "location");
    const list = current.closest("ul");
    if (list.scrollWidth > list.clientWidth) list.scrollLeft = current.offsetLeft - list.clientWidth / 2;
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
