// Makes the ledger's table sortable and filterable. Without it the table stands in the book's order, whole.
document.querySelectorAll("table.ledger").forEach((table) => {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];

  const keyOf = (row, column) => row.cells[column].dataset.sort;
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };

  // ascending, descending, the book's order; rows without a key stay last
  const sort = (column) => {
    const next = { none: "ascending", ascending: "descending", descending: "none" };
    const order = next[headers[column].getAttribute("aria-sort")];
    headers.forEach((header, index) => header.setAttribute("aria-sort", index === column ? order : "none"));
    const rows = [...original];
    if (order !== "none") {
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((a, b) => {
        const [x, y] = [keyOf(a, column), keyOf(b, column)];
        return x === "" || y === "" ? compare(x, y) : sign * compare(x, y);
      });
    }
    body.append(...rows);
  };

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(column));
    header.append(button);
    header.setAttribute("aria-sort", "none");
  });

  const form = document.createElement("form");
  form.className = "ledger-filter";
  form.setAttribute("role", "search");
  form.addEventListener("submit", (event) => event.preventDefault());
  const field = (words, control) => {
    const label = document.createElement("label");
    label.append(words, control);
    form.append(label);
    control.addEventListener("input", filter);
    return control;
  };
  const choice = (words, name, caption) => {
    const select = document.createElement("select");
    select.append(new Option("all", ""));
    const seen = new Map(original.map((row) => [row.dataset[name], caption(row)]));
    seen.forEach((shown, value) => select.append(new Option(shown, value)));
    return field(words, select);
  };
  const chapter = choice("Chapter", "chapter", (row) => row.cells[1].textContent);
  const verdict = choice("Verdict", "verdict", (row) => row.dataset.verdict);
  const search = document.createElement("input");
  search.type = "search";
  const text = field("Text", search);
  const count = document.createElement("output");
  form.append(count);

  function filter() {
    const wanted = text.value.toLowerCase();
    original.forEach((row) => {
      row.hidden =
        (chapter.value !== "" && row.dataset.chapter !== chapter.value) ||
        (verdict.value !== "" && row.dataset.verdict !== verdict.value) ||
        !row.textContent.toLowerCase().includes(wanted);
    });
    count.textContent = `${original.filter((row) => !row.hidden).length} of ${original.length} claims`;
  }

  chapter.value = new URLSearchParams(location.search).get("chapter") ?? "";
  if (chapter.selectedIndex < 0) chapter.value = "";
  filter();
  table.parentElement.before(form);
});
