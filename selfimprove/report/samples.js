"use strict";
// Filters, compares and shows what stands in #data. Texts of models reach the page through textContent only.

const suites = JSON.parse(document.getElementById("data").textContent).suites;
const field = Object.fromEntries(
  ["suite", "policy", "beside", "value", "change", "search"].map((id) => [id, document.getElementById(id)]),
);
const PAGE = 50; // items shown at a time
const MOST_CELLS = 4e6; // of the table that two texts are compared in
const WORDS = {
  right: { good: "✓ right", bad: "✗ wrong", even: "half right" },
  won: { good: "✓ won", bad: "✗ lost", even: "tie" },
};
const CHANGES = {
  "": "any",
  better: "better",
  worse: "worse",
  value: "another value",
  text: "another text",
  same: "same text",
};
let shown = PAGE;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(
    ...options.map(([value, text]) => {
      const option = make("option", text);
      option.value = value;
      return option;
    }),
  );
  if (options.some(([value]) => value === before)) select.value = before;
}

/** "good", "bad", "even", "score" or "missing". */
function kindOf(suite, answer) {
  if (answer.value === null) return "missing";
  if (suite.marks === "score") return "score";
  return answer.value > 0.5 ? "good" : answer.value < 0.5 ? "bad" : "even";
}

function said(suite, answer) {
  const kind = kindOf(suite, answer);
  const word = kind === "missing" ? "missing" : kind === "score" ? number(answer.value) : WORDS[suite.marks][kind];
  const exact = kind !== "missing" && kind !== "score" && answer.value % 1 !== 0 ? ` ${number(answer.value)}` : "";
  return word + exact + (answer.why ? ` (${answer.why})` : "");
}

function number(value) {
  return String(Math.round(value * 1000) / 1000);
}

/** The places of the differing words: [kind, text] with kind "same", "gone" or "new". */
function difference(before, after) {
  const [a, b] = [before, after].map((text) => text.match(/\S+\s*|\s+/g) || []);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const [x, y] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const parts = [["same", a.slice(0, start).join("")]];
  parts.push(...(x.length * y.length > MOST_CELLS ? [["gone", x.join("")], ["new", y.join("")]] : aligned(x, y)));
  parts.push(["same", a.slice(a.length - end).join("")]);
  return parts.filter(([, text]) => text);
}

/** Longest common subsequence of two lists of words. */
function aligned(x, y) {
  const width = y.length + 1;
  const length = new Uint32Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      length[i * width + j] =
        x[i] === y[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  const parts = [];
  const add = (kind, word) => {
    const last = parts[parts.length - 1];
    if (last && last[0] === kind) last[1] += word;
    else parts.push([kind, word]);
  };
  let [i, j] = [0, 0];
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) add("same", x[i++], j++);
    else if (j === y.length || (i < x.length && length[(i + 1) * width + j] >= length[i * width + j + 1]))
      add("gone", x[i++]);
    else add("new", y[j++]);
  }
  return parts;
}

function chosen() {
  const suite = suites[Number(field.suite.value)];
  const all = field.policy.value === "all";
  const policies = all ? suite.policies.map((_, place) => place) : [Number(field.policy.value)];
  const beside = all || field.beside.value === "" ? null : Number(field.beside.value);
  return { suite, policies, beside, search: field.search.value.toLowerCase() };
}

function changed(suite, before, after, change) {
  if (!change) return true;
  if (!before || !after) return false;
  if (change === "same" || change === "text") return (before.text === after.text) === (change === "same");
  if (change === "value") return before.value !== after.value;
  if (before.value === null || after.value === null) return false;
  return change === "better" ? after.value > before.value : after.value < before.value;
}

function matches(item, { suite, policies, beside, search }) {
  const answers = policies.map((place) => item.answers[place]).filter(Boolean);
  if (!answers.length) return false;
  if (field.value.value && !answers.some((answer) => kindOf(suite, answer) === field.value.value)) return false;
  if (beside !== null && !changed(suite, item.answers[beside], answers[0], field.change.value)) return false;
  if (!search) return true;
  const other = beside === null ? [] : [item.answers[beside]];
  const texts = [item.id, item.prompt, item.reference, item.group];
  for (const answer of [...answers, ...other])
    if (answer) texts.push(answer.text, answer.why, ...Object.values(answer.more || {}));
  return texts.some((text) => text && text.toLowerCase().includes(search));
}

/** A text with what is searched for marked. */
function marked(parent, text, search) {
  const low = text.toLowerCase();
  let from = 0;
  // where lower case has another length, places would be wrong
  for (let at; search && low.length === text.length && (at = low.indexOf(search, from)) >= 0; from = at + search.length) {
    parent.append(text.slice(from, at), make("mark", text.slice(at, at + search.length)));
  }
  parent.append(text.slice(from));
}

function block(text, search) {
  const pre = make("pre");
  marked(pre, text, search);
  return pre;
}

/** An answer; beside another one (`other`) with its words that the other does not have, as `tag`. */
function side(suite, place, answer, { search, other, tag }) {
  const box = make("div");
  const head = make("h3", suite.policies[place].name + " ");
  box.append(head);
  if (!answer) {
    head.append(make("span", "no answer kept", "soft"));
    return box;
  }
  const kind = kindOf(suite, answer);
  head.append(make("span", said(suite, answer), ["good", "bad"].includes(kind) ? kind : "soft"));
  if (other && other.text !== answer.text) {
    const pre = make("pre");
    const parts = tag === "del" ? difference(answer.text, other.text) : difference(other.text, answer.text);
    for (const [kind, text] of parts) {
      if (kind === "same") marked(pre, text, search);
      else if ((kind === "gone") === (tag === "del")) marked(pre.appendChild(make(tag)), text, search);
    }
    box.append(pre);
  } else box.append(block(answer.text, search));
  if (other && other.text === answer.text && tag === "ins") box.append(make("p", "the same text", "soft"));
  for (const [name, text] of Object.entries(answer.more || {})) {
    const details = make("details");
    details.append(make("summary", name), block(text, search));
    box.append(details);
  }
  return box;
}

function article(item, { suite, policies, beside, search }) {
  const card = make("article");
  card.tabIndex = 0;
  const head = make("h3", "prompt ");
  head.append(make("span", [item.id, item.group].filter(Boolean).join(" · "), "soft"));
  card.append(head, block(item.prompt, search));
  if (item.reference) {
    const line = make("p", "reference: ", "soft");
    marked(line, item.reference, search);
    card.append(line);
  }
  const sides = make("div", undefined, "sides");
  const before = beside === null ? null : item.answers[beside];
  if (beside !== null) sides.append(side(suite, beside, before, { search, other: item.answers[policies[0]], tag: "del" }));
  for (const place of policies) sides.append(side(suite, place, item.answers[place], { search, other: before, tag: "ins" }));
  card.append(sides);
  return card;
}

function tally(suite, items, place) {
  const answers = items.map((item) => item.answers[place]).filter(Boolean);
  const count = (kind) => answers.filter((answer) => kindOf(suite, answer) === kind).length;
  const name = suite.policies[place].name;
  if (suite.marks === "score") {
    const known = answers.filter((answer) => answer.value !== null);
    return known.length ? `${name} ${number(known.reduce((sum, one) => sum + one.value, 0) / known.length)} on average` : "";
  }
  return `${name} ${count("good")} ${suite.marks}`;
}

function show() {
  const asked = chosen();
  const { suite, policies, beside } = asked;
  const found = suite.items.filter((item) => matches(item, asked));
  const places = [...(beside === null ? [] : [beside]), ...policies];
  const parts = [`${found.length} of ${suite.items.length} items`];
  if (found.length) parts.push(...places.map((place) => tally(suite, found, place)).filter(Boolean));
  const out = suite.total - suite.items.length;
  if (out) parts.push(`${out} more items are not in this page` + (suite.files ? "; they are in the folder samples" : ""));
  document.getElementById("count").textContent = parts.join(" · ");
  document.getElementById("items").replaceChildren(...found.slice(0, shown).map((item) => article(item, asked)));
  const more = document.getElementById("more");
  more.hidden = found.length <= shown;
  more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more of ${found.length - shown}`;
}

/** The choices that fit the suite and policy, kept where they still do. */
function offer() {
  const suite = suites[Number(field.suite.value)];
  const names = suite.policies.map(({ name, round }, place) => [String(place), round ? `${name} (round ${round})` : name]);
  const fresh = !field.policy.options.length;
  fill(field.policy, names.length > 1 ? [...names, ["all", "all"]] : names);
  fill(field.beside, [["", "none"], ...names]);
  if (fresh && names.length > 1) [field.policy.value, field.beside.value] = [String(names.length - 1), "0"];
  field.beside.disabled = field.policy.value === "all" || names.length < 2;
  if (field.beside.value === field.policy.value) field.beside.value = "";
  const words = { ...WORDS[suite.marks], missing: "missing" };
  const there = new Set(suite.items.flatMap((item) => item.answers.filter(Boolean).map((one) => kindOf(suite, one))));
  const kinds = Object.entries(words).filter(([kind]) => there.has(kind));
  fill(field.value, [["", "any"], ...kinds.map(([kind, word]) => [kind, word.replace(/^\W+/, "")])]);
  fill(field.change, Object.entries(CHANGES));
  field.change.disabled = field.beside.disabled || field.beside.value === "";
  if (field.change.disabled) field.change.value = "";
}

/** The choices stand in the address, so that a view can be kept, sent, and found again after a reload. */
function remember() {
  const kept = Object.entries(field).map(([id, one]) => [id, one.value]);
  history.replaceState(null, "", "#" + new URLSearchParams(kept.filter(([, value]) => value !== "")));
}

function recall() {
  fill(field.suite, suites.map((suite, place) => [String(place), suite.name]));
  const kept = new URLSearchParams(location.hash.slice(1));
  const has = (id, value) => [...field[id].options].some((option) => option.value === value);
  if (has("suite", kept.get("suite"))) field.suite.value = kept.get("suite");
  offer();
  if (![...kept].length) return;
  for (const id of ["policy", "beside", "value", "change"]) {
    const value = kept.get(id) || "";
    if (has(id, value)) field[id].value = value;
    offer();
  }
  field.search.value = kept.get("search") || "";
}

function update() {
  shown = PAGE;
  offer();
  remember();
  show();
}

document.getElementById("filters").addEventListener("input", update);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("more").addEventListener("click", () => {
  const next = shown;
  shown += PAGE;
  show();
  document.getElementById("items").children[next].focus();
});
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT"].includes(document.activeElement.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    field.search.focus();
  }
});
document.getElementById("filters").hidden = false;
recall();
show();
