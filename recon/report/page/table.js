// Tables that sort, tips that explain, commands that can be copied.
(() => {
  "use strict";

  // Undefined values stay last in either direction; the header of the names restores the order of the file.
  function sort(table, head) {
    const body = table.tBodies[0];
    const column = head.classList.contains("name") ? -1 : head.cellIndex;
    const down = head.getAttribute("aria-sort") === "none" ? head.dataset.better !== "lower" : head.getAttribute("aria-sort") === "ascending";
    const value = (row) => {
      const text = row.cells[column + 1].dataset.value;
      return text === "" ? null : Number(text);
    };
    const rows = [...body.rows].sort((a, b) => a.dataset.order - b.dataset.order);
    if (column >= 0) {
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return down ? y - x : x - y;
      });
    }
    for (const other of table.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
    if (column >= 0) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
    hide(); // it would cover what was sorted
  }

  for (const table of document.querySelectorAll("table.numbers")) {
    [...table.tBodies[0].rows].forEach((row, i) => { row.dataset.order = i; });
    for (const button of table.querySelectorAll("thead button")) {
      button.addEventListener("click", () => sort(table, button.closest("th")));
    }
  }

  const tip = document.getElementById("tip");

  function show(target) {
    const meaning = target.getAttribute("aria-describedby");
    if (meaning) tip.innerHTML = document.getElementById(meaning).innerHTML;
    else tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const [place, own] = [target.getBoundingClientRect(), tip.getBoundingClientRect()];
    const below = place.bottom + 8 + own.height < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(place.left, innerWidth - own.width - 8))}px`;
    tip.style.top = `${below ? place.bottom + 8 : Math.max(8, place.top - own.height - 8)}px`;
  }

  const explained = (event) => (event.target instanceof Element ? event.target.closest("thead [aria-describedby], [data-tip]") : null);
  const hide = () => { tip.hidden = true; };
  for (const name of ["mouseover", "focusin"]) {
    document.addEventListener(name, (event) => { const target = explained(event); target ? show(target) : hide(); });
  }
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { capture: true, passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = "copied";
        setTimeout(() => { button.textContent = "copy"; }, 1500);
      } catch {
        getSelection().selectAllChildren(text); // without a clipboard, at least ready for Ctrl+C
      }
    });
  }
})();
