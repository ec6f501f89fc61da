"use strict";

const PAGE = 120; // cards added at a time, so that thousands of PIEs open as fast as a few
const entries = JSON.parse(document.getElementById("data").textContent).entries;
const part = (id) => document.getElementById(id);
const knowsLabels = entries.some((entry) => entry.label !== "");
const knowsMargins = entries.some((entry) => entry.margin_dense !== null);
// One network on each side casts one vote: there is nothing to count, and nothing was tested.
const single = entries.every((entry) => sum(entry.votes_dense) === 1);
const inOrder = new Intl.Collator("en", { numeric: true }).compare;

const FILTERS = {
  condition: (entry) => entry.condition,
  class: (entry) => (knowsLabels ? entry.label : entry.modal_dense),
  kind: (entry) => entry.kind,
};
const SORTS = {
  ...(single ? {} : {
    distance: ["largest change in votes", (a, b) => b.distance - a.distance],
    p: ["smallest p-value", (a, b) => a.p_value - b.p_value],
  }),
  margin: ["largest margin before", (a, b) => (b.margin_dense ?? -1) - (a.margin_dense ?? -1)],
  id: ["sample id", (a, b) => inOrder(a.sample_id, b.sample_id)],
};
const FIRST_SORT = single ? "id" : "distance";
const KINDS = {
  forgotten: "the label was right before",
  gained: "the label is right after",
  "still wrong": "the label is right neither before nor after",
};

let visible = []; // indices into entries, filtered and sorted
let shown = 0; // how many of them have a card
let current = 0; // position in visible that the keyboard is on

// Every text goes through textContent or setAttribute, never through HTML: names may hold anything.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

function pText(p) {
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}

function sum(votes) {
  return votes.reduce((total, [, count]) => total + count, 0);
}

function bar(votes, entry) {
  const parts = { before: 0, after: 0, other: 0 };
  for (const [name, count] of votes) {
    parts[name === entry.modal_dense ? "before" : name === entry.modal_compressed ? "after" : "other"] += count;
  }
  const drawn = Object.entries(parts).filter(([, count]) => count > 0);
  return element("span", { class: "votes", "aria-hidden": "true" },
    ...drawn.map(([name, count]) => element("b", { class: name, style: `flex: ${count} 0 0` })));
}

function voteText(label, votes) {
  return `${label} ${new Map(votes).get(label)}/${sum(votes)}`;
}

function card(position) {
  const entry = entries[visible[position]];
  const button = element("button", { type: "button", class: "card", "data-position": position, tabindex: "-1" },
    element("img", { src: entry.image, alt: `Image ${entry.sample_id}`, loading: "lazy", decoding: "async" }),
    element("span", { class: "flip" }, `${entry.modal_dense} → ${entry.modal_compressed}`),
    element("span", {}, knowsLabels ? `${entry.kind}; true label ${entry.label}` : "true label not known"),
    ...(single ? [] : [
      element("span", { class: "soft" }, `before: ${voteText(entry.modal_dense, entry.votes_dense)}`),
      bar(entry.votes_dense, entry),
      element("span", { class: "soft" }, `after: ${voteText(entry.modal_compressed, entry.votes_compressed)}`),
      bar(entry.votes_compressed, entry),
    ]),
    element("span", { class: "soft" }, entry.condition));
  return element("li", {}, button);
}

function showMore(upTo = shown + PAGE) {
  const end = Math.min(upTo, visible.length);
  const fresh = [];
  for (; shown < end; shown += 1) fresh.push(card(shown));
  part("grid").append(...fresh);
  part("more").hidden = shown >= visible.length;
}

function cardAt(position) {
  if (position >= shown) showMore(position + PAGE);
  return part("grid").children[position].firstElementChild;
}

function moveTo(position, focus = true) {
  if (visible.length === 0) return;
  const target = Math.max(0, Math.min(position, visible.length - 1));
  if (current < shown) cardAt(current).tabIndex = -1;
  current = target;
  const button = cardAt(current);
  button.tabIndex = 0; // one stop for Tab; the arrow keys do the rest
  if (focus) button.focus();
}

function refresh() {
  visible = entries.map((_, index) => index).filter((index) =>
    Object.entries(FILTERS).every(([name, of]) => {
      const wanted = part(name).value;
      return wanted === "" || of(entries[index]) === wanted;
    }));
  const compare = SORTS[part("sort").value][1];
  visible.sort((a, b) => compare(entries[a], entries[b]) || a - b);
  part("grid").replaceChildren();
  shown = 0;
  current = 0;
  showMore();
  moveTo(0, false);
  part("nothing").hidden = visible.length > 0;
  const [found, all] = [visible.length, entries.length].map((count) => count.toLocaleString("en"));
  part("count").textContent = `${found} of ${all} ${single ? "flips" : "PIEs"}`;
}

function writeHash() {
  const state = new URLSearchParams();
  for (const name of Object.keys(FILTERS)) if (part(name).value !== "") state.set(name, part(name).value);
  if (part("sort").value !== FIRST_SORT) state.set("sort", part("sort").value);
  if (part("detail").open) state.set("open", visible[current]);
  history.replaceState(null, "", `#${state}`);
}

function choose(select, wanted, otherwise) {
  const known = [...select.options].some((option) => option.value === wanted);
  select.value = known ? wanted : otherwise;
}

function readHash() {
  const state = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(FILTERS)) choose(part(name), state.get(name), "");
  choose(part("sort"), state.get("sort"), FIRST_SORT);
  refresh();
  const position = state.has("open") ? visible.indexOf(Number(state.get("open"))) : -1;
  if (position >= 0) openDetail(position);
  else part("detail").close();
}

function facts(entry) {
  const rows = [
    ["Condition", entry.condition],
    ["True label", knowsLabels ? entry.label : "not known"],
    ["Label before", entry.modal_dense + (entry.tie_dense ? " (the vote was tied)" : "")],
    ["Label after", entry.modal_compressed + (entry.tie_compressed ? " (the vote was tied)" : "")],
  ];
  if (entry.kind) rows.push(["Kind", `${entry.kind}: ${KINDS[entry.kind]}`]);
  if (!single) rows.push(
    ["Change in votes", `${Number(entry.distance.toPrecision(4))} (summed over classes)`],
    ["p-value", `${pText(entry.p_value)}; ${pText(entry.p_adjusted)} after correction for the number of images`],
    ["On its own", entry.rejected ? "significant: beyond chance at a false discovery rate of 5%"
      : "not significant: chance could explain it"]);
  if (entry.margin_dense !== null) rows.push(["Margin before", entry.margin_dense.toFixed(3)]);
  if (entry.margin_compressed !== null) rows.push(["Margin after", entry.margin_compressed.toFixed(3)]);
  if (entry.margin_dense !== null || entry.margin_compressed !== null) {
    rows.push(["", `Margin: lead of the likeliest class over the second${single ? "" : ", mean over networks"}`]);
  }
  return element("dl", {}, ...rows.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

function votesTable(entry) {
  const before = new Map(entry.votes_dense);
  const after = new Map(entry.votes_compressed);
  const totals = [sum(entry.votes_dense), sum(entry.votes_compressed)];
  const names = [...new Set([...before.keys(), ...after.keys()])];
  const heading = element("tr", {}, element("th", { scope: "col" }, "Class"),
    element("th", { scope: "col", class: "n" }, `before (of ${totals[0]})`),
    element("th", { scope: "col", class: "n" }, `after (of ${totals[1]})`));
  const body = names.map((name) => element("tr", {},
    element("th", { scope: "row" }, name + (knowsLabels && name === entry.label ? " (true label)" : "")),
    element("td", { class: "n" }, String(before.get(name) ?? 0)),
    element("td", { class: "n" }, String(after.get(name) ?? 0))));
  return element("div", {}, element("h3", {}, "Votes of the networks"), bar(entry.votes_dense, entry),
    element("p", { class: "soft" }), bar(entry.votes_compressed, entry),
    element("table", {}, element("thead", {}, heading), element("tbody", {}, ...body)));
}

function mapsSection(entry) {
  const drawn = [["before", entry.maps[0]], ["after", entry.maps[1]]].map(([when, source]) =>
    element("figure", {},
      element("img", { src: source, alt: `Attribution map of image ${entry.sample_id} ${when} compression` }),
      element("figcaption", {}, when)));
  const legend = element("p", {}, "Attribution (integrated gradients" +
    `${single ? "" : ", mean over networks"}) for the label before, `,
    `${entry.modal_dense}: `, element("span", { class: "for" }, "green"), " pixels speak for it, ",
    element("span", { class: "against" }, "purple"),
    " pixels against it, grey ones hardly count. The stronger the colour, the more; both maps share one scale.");
  return element("section", { class: "wide" }, element("h3", {}, `What the network${single ? " looks" : "s look"} at`), legend,
    element("div", { class: "maps" }, ...drawn));
}

function openDetail(position) {
  moveTo(position, false);
  const entry = entries[visible[current]];
  part("detail-body").replaceChildren(
    element("h2", { id: "detail-title" }, `Image ${entry.sample_id}`),
    element("img", { class: "large", src: entry.image, alt: `Image ${entry.sample_id}, enlarged` }),
    element("div", {}, facts(entry), ...(single ? [] : [votesTable(entry)])),
    ...(entry.maps ? [mapsSection(entry)] : []));
  part("previous").disabled = current === 0;
  part("next").disabled = current === visible.length - 1;
  if (!part("detail").open) part("detail").showModal();
  part("detail").scrollTop = 0;
  writeHash();
}

function step(by) {
  const position = current + by;
  if (position >= 0 && position < visible.length) openDetail(position);
}

function columns() {
  return getComputedStyle(part("grid")).gridTemplateColumns.split(" ").length;
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (part("detail").open) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); step(by); }
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    part("condition").focus();
    return;
  }
  if (event.target.tagName === "SELECT") return; // there the arrow keys choose an option
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
  if (!by) return;
  event.preventDefault();
  const onCard = document.activeElement.classList.contains("card");
  if (!onCard) moveTo(current);
  else if (current + by >= 0 && current + by < visible.length) moveTo(current + by);
}

function start() {
  const values = (of) => [...new Set(entries.map(of))].filter((name) => name !== "");
  const withAll = (names) => [["", "all"], ...names.map((name) => [name, name])];
  fillSelect(part("condition"), withAll(values(FILTERS.condition)));
  fillSelect(part("class"), withAll(values(FILTERS.class).sort(inOrder)));
  fillSelect(part("kind"), withAll(Object.keys(KINDS)));
  const sorts = Object.entries(SORTS).filter(([name]) => name !== "margin" || knowsMargins);
  fillSelect(part("sort"), sorts.map(([name, [text]]) => [name, text]));
  part("class-label").textContent = knowsLabels ? "True class" : "Label before";
  part("kind").parentElement.hidden = !knowsLabels;

  part("filters").addEventListener("submit", (event) => event.preventDefault());
  part("filters").addEventListener("change", () => { refresh(); writeHash(); });
  part("grid").addEventListener("click", (event) => {
    const button = event.target.closest(".card");
    if (button) openDetail(Number(button.dataset.position));
  });
  part("more").addEventListener("click", () => showMore());
  new IntersectionObserver((seen) => { if (seen.some((item) => item.isIntersecting)) showMore(); },
    { rootMargin: "800px" }).observe(part("more"));
  part("previous").addEventListener("click", () => step(-1));
  part("next").addEventListener("click", () => step(1));
  part("close").addEventListener("click", () => part("detail").close());
  part("detail").addEventListener("click", (event) => { if (event.target === part("detail")) part("detail").close(); });
  part("detail").addEventListener("close", () => { writeHash(); moveTo(current); });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", readHash);
  readHash();
}

start();
