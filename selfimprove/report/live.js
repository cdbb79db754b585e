"use strict";
// Follows a run that goes on: takes the new page in, keeps its place and what was opened, and stops at the run's end.

let version = document.currentScript.dataset.version;
const line = document.createElement("p");
line.setAttribute("role", "status");
line.style.cssText = "position:fixed;right:.8rem;bottom:.5rem;margin:0;padding:.2rem .6rem;border-radius:5px;" +
  "font-size:.82rem;background:Canvas;color:CanvasText;border:1px solid";

function say(text) {
  line.textContent = text;
  document.body.append(line);
}

function named(details) {
  const counts = new Map();
  return details.map((one) => {
    const summary = one.querySelector("summary");
    const name = summary ? summary.textContent.replace(/\(\d+\)/, "") : "";
    counts.set(name, (counts.get(name) || 0) + 1);
    return `${name}#${counts.get(name)}`;
  });
}

function takeIn(page) {
  const before = [...document.querySelectorAll("details")];
  const open = new Map(named(before).map((name, place) => [name, before[place].open]));
  const place = window.scrollY;
  document.title = page.title;
  document.body.replaceChildren(...page.body.childNodes);
  const after = [...document.querySelectorAll("details")];
  named(after).forEach((name, at) => open.has(name) && (after[at].open = open.get(name)));
  window.scrollTo(0, place);
}

async function follow() {
  let wait = 2000;
  try {
    const now = await (await fetch("/state.json")).json();
    if (now.version !== version) {
      const text = await (await fetch("/report.html")).text();
      takeIn(new DOMParser().parseFromString(text, "text/html"));
      version = now.version;
    }
    say(`${now.said}; seen ${new Date().toLocaleTimeString()}`);
    if (now.state !== "waiting" && now.state !== "running") return;
  } catch {
    say("the watcher does not answer");
    wait = 5000;
  }
  setTimeout(follow, wait);
}

setTimeout(follow, 1000);
