for (const table of document.querySelectorAll("table.searchable")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const filter = document.createElement("input");
  filter.className = "filter"; filter.type = "search"; filter.placeholder = "Filter these rows";
  filter.setAttribute("aria-label", "Filter these rows");
  const texts = rows.map(row => row.textContent.toLowerCase());
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, i) => { row.hidden = !words.every(word => texts[i].includes(word)); });
  });
  table.parentElement.before(filter);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent; head.replaceChildren(button);
    const key = row => {
      const cell = row.cells[column], number = cell.dataset.key;
      return number === undefined ? cell.textContent : number === "-inf" ? -Infinity : number === "inf" ? Infinity : Number(number);
    };
    button.addEventListener("click", () => {
      const numbers = rows.length && rows[0].cells[column].dataset.key !== undefined;
      const order = head.getAttribute("aria-sort") === (numbers ? "descending" : "ascending") ? (numbers ? 1 : -1) : (numbers ? -1 : 1);
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
      const compare = (a, b) => numbers ? (a === b ? 0 : a < b ? -1 : 1) : a.localeCompare(b, undefined, {numeric: true});
      const sorted = rows.map(row => [key(row), row]).sort((a, b) => order * compare(a[0], b[0]));
      body.append(...sorted.map(pair => pair[1]));
    });
  });
}
for (const link of document.querySelectorAll("a.picture")) {
  const button = document.createElement("a");
  button.href = "#"; button.textContent = "PNG";
  button.addEventListener("click", event => {
    event.preventDefault();
    const image = new Image();
    image.addEventListener("load", () => {
      const canvas = document.createElement("canvas"), scale = 3;
      canvas.width = image.width * scale; canvas.height = image.height * scale;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      const saved = document.createElement("a");
      saved.download = link.download.replace(".svg", ".png"); saved.href = canvas.toDataURL("image/png"); saved.click();
    });
    image.src = link.href;
  });
  link.after(", ", button);
}
