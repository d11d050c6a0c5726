"use strict";
// What all pages share: the tips of elements with data-tip, by pointer or keyboard, and sortable tables.
// Texts are set through textContent only, so that no text from a file ever becomes markup.
{
  const tip = document.getElementById("tip");
  let here = null;

  const show = (mark) => {
    if (here) here.classList.remove("here");
    here = mark;
    tip.hidden = !mark;
    if (!mark) return;
    mark.classList.add("here");
    tip.textContent = mark.dataset.tip;
    const box = mark.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const middle = box.left + box.width / 2 - tip.offsetWidth / 2;
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${scrollX + Math.max(4, Math.min(middle, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${scrollY + (above > 0 ? above : Math.min(box.bottom, innerHeight - tip.offsetHeight) + 6)}px`;
  };

  document.addEventListener("pointerover", (event) => show(event.target.closest("[data-tip]")));
  document.addEventListener("focusout", () => show(null));
  // A chart is one tab stop. The arrow keys move between its marks.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show(null);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches("svg.chart")) return;
    const marks = [...event.target.querySelectorAll("[data-tip]")];
    if (!marks.length) return;
    event.preventDefault();
    const place = marks.indexOf(here);
    show(marks[place < 0 ? (step > 0 ? 0 : marks.length - 1) : (place + step + marks.length) % marks.length]);
  });

  // A region is a tab stop only while it can scroll.
  for (const region of document.querySelectorAll(".scroll")) {
    const observer = new ResizeObserver(() => {
      if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
      else region.removeAttribute("tabindex");
    });
    observer.observe(region);
  }

  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent;
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === typeof b) return a.localeCompare(b);
    return typeof a === "number" ? -1 : 1;
  };
  document.addEventListener("click", (event) => {
    const head = event.target.closest(".sortable thead th");
    if (!head || !event.target.closest("button")) return;
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
    rows.sort((a, b) => {
      const blank = (a[0] === "") - (b[0] === "");  // rows without a value stay last
      return blank || (falling ? -1 : 1) * compare(a[0], b[0]);
    });
    body.append(...rows.map((row) => row[1]));
  });
}
