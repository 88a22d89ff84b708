"use strict";
// Show only the rows that hold every word of the search, and open the trees that have one.
const search = document.getElementById("search");
const hits = document.getElementById("hits");
const rows = [...document.querySelectorAll("[data-row]")].map(
  (row) => [row, `${row.textContent} ${row.dataset.words ?? ""}`.toLowerCase()]);

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const [row, text] of rows) {
    const hit = words.every((word) => text.includes(word));
    row.toggleAttribute("hidden", !hit);
    found += hit;
  }
  for (const tree of document.querySelectorAll("details.searchable")) {
    tree.open = words.length > 0 && tree.querySelector("[data-row]:not([hidden])") !== null;
  }
  hits.textContent = words.length ? `${found} of ${rows.length} rows` : "";
}

search.addEventListener("input", show);

// A link to the page may carry a search: report.html#q=0x1000000
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1)).get("q");
  if (asked !== null) {
    search.value = asked;
    show();
  }
}
addEventListener("hashchange", follow);
follow();
