"use strict";
// Rows are arrays of numbers: of a text, its place in the column's words. The state of the page is in the fragment of
// its address, as in #detector=evidence&scope=client&sort=-mean_queries&page=2, so that a view can be linked.
const PAGE_ROWS = 100;

// Returns the state that a fragment describes: filters by column, the text to find, the order, and the page from 1.
const readFragment = (text, columns) => {
  const state = { filters: {}, find: "", sort: "", descending: false, page: 1, unknown: [] };
  for (const [key, value] of new URLSearchParams(text.replace(/^#/, ""))) {
    const column = columns.find((found) => found.name === key && (found.kind === "choice" || found.kind === "yes"));
    if (key === "find") state.find = value;
    else if (key === "page" && /^[1-9]\d*$/.test(value)) state.page = Number(value);
    else if (key === "sort" && columns.some((found) => found.name === value.replace(/^-/, ""))) {
      state.sort = value.replace(/^-/, "");
      state.descending = value.startsWith("-");
    } else if (key === "certified" && /^(yes|no)$/.test(value)) state.filters.certified = value;
    else if (column) state.filters[key] = value;
    else state.unknown.push(`${key}=${value}`);
  }
  return state;
};

const writeFragment = (state) => {
  const parts = new URLSearchParams();
  for (const [key, value] of Object.entries(state.filters)) parts.set(key, value);
  if (state.find) parts.set("find", state.find);
  if (state.sort) parts.set("sort", (state.descending ? "-" : "") + state.sort);
  if (state.page > 1) parts.set("page", String(state.page));
  return parts.toString();
};

// Returns the value of a cell: text, a number, or null.
const cell = (column, row) => (column.words ? column.words[column.values[row]] : column.values[row]);

const yes = (value) => (value === null ? "" : value ? "yes" : "no");

// Returns the numbers of the rows that pass all filters, in the order of the state.
const select = (columns, state) => {
  const byName = Object.fromEntries(columns.map((column) => [column.name, column]));
  const certified = (row) => (cell(byName.guarantee_short, row) === "none" ? "no" : "yes");
  const words = columns.filter((column) => column.words);
  const wanted = state.find.toLowerCase();
  const passes = (row) =>
    Object.entries(state.filters).every(([name, value]) => {
      if (name === "certified") return certified(row) === value;
      const found = cell(byName[name], row);
      return (byName[name].kind === "yes" ? yes(found) : found) === value;
    }) && (!wanted || words.some((column) => cell(column, row).toLowerCase().includes(wanted)));
  const rows = [...Array(columns[0].values.length).keys()].filter(passes);
  if (!state.sort) return rows;
  const key = byName[state.sort];
  const sign = state.descending ? -1 : 1;
  return rows.sort((one, other) => {
    const [a, b] = [cell(key, one), cell(key, other)];
    if (a === null || b === null) return (a === null) - (b === null) || one - other;  // missing values are last
    const order = key.words ? a.localeCompare(b, "en") : a - b;
    return sign * order || one - other;
  });
};

const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 2 : 1).replace(/\.0+$/, "")}%`;

// Returns a cell as text.
const shown = (columns, name, row) => {
  const column = columns.find((found) => found.name === name);
  const value = cell(column, row);
  const of = (key) => cell(columns.find((found) => found.name === key), row);
  if (value === null) return "–";
  if (column.kind === "yes") return yes(value);
  if (column.kind === "share") return percent(value);
  if (column.kind === "interval") {
    return `${percent(value)} to ${percent(of("high"))}`;
  }
  if (column.kind === "leakage") return value.toFixed(2);
  if (column.kind === "of attackers") return `${value.toLocaleString("en")} of ${of("attackers").toLocaleString("en")}`;
  if (column.kind === "number") return value.toLocaleString("en");
  if (column.kind === "queries") {
    const text = value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : value.toFixed(1);
    return of("blocked") < of("attackers") ? `> ${text}` : text;  // some were never blocked: they count as their budget
  }
  return name === "evasion" && value === "" ? "none" : value;
};

const start = () => {
  const { columns } = JSON.parse(document.getElementById("data").textContent);
  const [form, body, head] = ["filters", "rows", "head"].map((id) => document.getElementById(id));
  let state = readFragment(location.hash, columns);
  const element = (name, text = "", attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const choices = [
    ...columns.filter((column) => column.kind === "choice" || column.kind === "yes"),
    { name: "certified", title: "certified", kind: "yes" },
  ];
  const change = (changes) => {
    state = { ...state, page: 1, unknown: [], ...changes };
    history.replaceState(null, "", `#${writeFragment(state)}`);
    draw();
  };
  const fields = choices.map((column) => {
    const label = element("label", column.title);
    const field = element("select", "", { name: column.name });
    field.append(element("option", "all", { value: "*" }));
    const values = column.kind === "yes" ? ["yes", "no"] : [...column.words].sort((a, b) => a.localeCompare(b, "en"));
    for (const value of values) field.append(element("option", value === "" ? "none" : value, { value }));
    field.addEventListener("change", () => {
      const { [column.name]: _, ...others } = state.filters;
      change({ filters: field.value === "*" ? others : { ...others, [column.name]: field.value } });
    });
    label.append(field);
    form.append(label);
    return field;
  });
  const label = element("label", "find in any text");
  const find = element("input", "", { type: "search", name: "find" });
  find.addEventListener("input", () => change({ find: find.value }));
  label.append(find);
  const reset = element("button", "show all rows", { type: "button" });
  reset.addEventListener("click", () => change({ filters: {}, find: "", sort: "", descending: false }));
  form.append(label, reset);
  form.addEventListener("submit", (event) => event.preventDefault());

  const visible = columns.filter((column) => !column.hidden);
  const titles = visible.map((column) => {
    const title = element("th", "", { scope: "col" });
    if (column.words) title.className = `words ${column.name}`;
    const button = element("button", column.title, { type: "button" });
    button.addEventListener("click", () => change({
      sort: column.name, descending: state.sort === column.name && !state.descending,
    }));
    title.append(button);
    head.append(title);
    return title;
  });
  const pager = [["previous", -1], ["next", 1]].map(([id, step]) => {
    const button = document.getElementById(id);
    button.addEventListener("click", () => change({ page: state.page + step }));
    return button;
  });

  const draw = () => {
    const rows = select(columns, state);
    const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
    const page = Math.min(state.page, pages);
    state.page = page;
    const first = (page - 1) * PAGE_ROWS;
    body.replaceChildren(...rows.slice(first, first + PAGE_ROWS).map((row) => {
      const line = element("tr");
      for (const column of visible) {
        const made = element("td", shown(columns, column.name, row));
        if (column.words) made.className = `words ${column.name}`;
        if (column.name === "guarantee_short" && cell(column, row) === "none") made.classList.add("no-guarantee");
        line.append(made);
      }
      return line;
    }));
    const stopped = columns.find((column) => column.name === "stopped");
    const count = rows.filter((row) => cell(stopped, row)).length;
    const range = rows.length ? `Rows ${first + 1} to ${Math.min(first + PAGE_ROWS, rows.length)} of ` : "";
    const unknown = state.unknown.length ? ` Not a filter of this page: ${state.unknown.join(", ")}.` : "";
    document.getElementById("count").textContent =
      `${range}${rows.length.toLocaleString("en")} rows; stopped: ${count.toLocaleString("en")}.${unknown}`;
    document.getElementById("page").textContent = `page ${page} of ${pages}`;
    pager[0].disabled = page <= 1;
    pager[1].disabled = page >= pages;
    titles.forEach((title, place) => {
      const sorted = visible[place].name === state.sort;
      title.setAttribute("aria-sort", sorted ? (state.descending ? "descending" : "ascending") : "none");
    });
    fields.forEach((field) => {
      const value = state.filters[field.name] ?? "*";
      if (![...field.options].some((option) => option.value === value)) field.append(element("option", value, { value }));
      field.value = value;
    });
    if (find.value !== state.find) find.value = state.find;
  };
  window.addEventListener("hashchange", () => {
    state = readFragment(location.hash, columns);
    draw();
  });
  draw();
};

if (typeof document !== "undefined") start();
else module.exports = { readFragment, writeFragment, select, shown };
