// Keeps the page fresh: asks for its parts every few seconds while it is looked at, and puts in those that changed.
// Without this script the page is the same, and reloads as a whole.

"use strict";

const EVERY = 3000; // ms between two questions
const SLOWEST = 60000; // ms: the longest pause between two tries while the proxy does not answer
const PATIENCE = 10000; // ms for one answer
const SAID = 2000; // ms for which a button says what it did

const live = document.getElementById("live");
const parts = document.getElementById("parts");
const shown = new Map(); // name of a part -> its HTML as it came
let tag = ""; // entity tag of what is shown
let pause = EVERY;
let timer = 0;
let asking = false;

// --- words for times: the same as words.py's ------------------------------------------------------------------------

const SPANS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
const AGES = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

function span(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const words = [];
  for (const [size, unit] of SPANS) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count) words.push(`${count}${unit}`);
  }
  return words.slice(0, 2).join(" ") || "0s";
}

function lasting(seconds) {
  return span(seconds >= 600 ? seconds - (seconds % 60) : seconds);
}

function ago(seconds) {
  if (seconds < 5) return "just now";
  const [size, unit] = AGES.find(([length]) => seconds >= length);
  return `${Math.floor(seconds / size)}${unit} ago`;
}

const WORDS = {
  ago: (at, now) => ago(now - at),
  until: (at, now) => (at > now ? `in ${lasting(at - now)}` : "now"),
  age: (at, now) => lasting(now - at),
  rest: (at, now) => lasting(at - now),
};

function tick() {
  const now = Date.now() / 1000;
  for (const time of document.querySelectorAll("time[data-words]")) {
    const text = WORDS[time.dataset.words](Date.parse(time.dateTime) / 1000, now);
    if (time.textContent !== text) time.textContent = text;
  }
}

// --- what changes ---------------------------------------------------------------------------------------------------

function showButtons() {
  for (const button of document.querySelectorAll("button.copy[hidden]")) button.hidden = false;
}

function isSelectedIn(part) {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && part.contains(selection.anchorNode));
}

// Returns whether everything is in place: a part in which the user has selected text waits.
function put(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  let whole = true;
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const name = part.dataset.part;
    const old = parts.querySelector(`[data-part="${name}"]`);
    if (!old || shown.get(name) === part.innerHTML) continue;
    if (isSelectedIn(old)) {
      whole = false;
      continue;
    }
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    shown.set(name, part.innerHTML);
    old.replaceChildren(...part.childNodes);
    showButtons();
    if (focused) document.getElementById(focused)?.focus();
  }
  tick();
  return whole;
}

function say(text, state) {
  document.body.dataset.state = state;
  if (live.textContent !== text) live.textContent = text;
}

async function ask() {
  const answer = await fetch("/status.html", {
    headers: tag ? { "If-None-Match": tag } : {},
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (answer.status === 304) return;
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  if (answer.headers.get("x-kimi-mitm-version") !== document.body.dataset.version) {
    location.reload(); // another version of the program: its page may be another one
    return;
  }
  const next = answer.headers.get("etag") ?? "";
  tag = put(await answer.text()) ? next : "";
}

async function refresh() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  try {
    await ask();
    pause = EVERY;
    say("Live", "live");
  } catch {
    pause = Math.min(pause * 2, SLOWEST);
    say("The proxy does not answer. What you see is what it said last.", "gone");
  } finally {
    asking = false;
  }
  timer = setTimeout(refresh, pause);
}

// --- copying --------------------------------------------------------------------------------------------------------

function select(element) {
  const selection = document.getSelection();
  selection.removeAllRanges();
  const range = document.createRange();
  range.selectNodeContents(element);
  selection.addRange(range);
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    select(source); // no permission, or not on this machine: the keyboard does the rest
    said = "Press Ctrl+C";
  }
  button.textContent = said;
  setTimeout(() => (button.textContent = "Copy"), SAID);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});
document.addEventListener("visibilitychange", refresh);
window.addEventListener("online", refresh);

for (const part of parts.querySelectorAll("[data-part]")) shown.set(part.dataset.part, part.innerHTML);
showButtons();
setInterval(tick, 1000);
refresh();
