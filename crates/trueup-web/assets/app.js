// Keeps numbers fresh and saves keystrokes. Every page works without it.
"use strict";

// How often a page is read anew at most, and at least, in milliseconds.
const SOON = 2000;
const LATE = 15000;

const live = document.getElementById("live");

function say(words) {
  if (live.textContent !== words) live.textContent = words;
}

// --- Numbers of SKUs -----------------------------------------------------------------------

// What is being typed stays; what it is compared with when it is sent does too.
const isTyped = (input) => document.activeElement === input || input.value !== input.nextElementSibling.value;

function put(place, value) {
  if (place instanceof HTMLInputElement) {
    if (isTyped(place)) return;
    place.nextElementSibling.value = value;
    place.value = value;
    return;
  }
  if (place.textContent === value) return;
  place.textContent = value;
  place.classList.add("changed");
  setTimeout(() => place.classList.remove("changed"), 1500);
}

const versionOf = (row) => Number(row.dataset.version);

// Puts a SKU's numbers where they stand, unless those there are of a later version.
function putNumbers(sku, version, valueOf) {
  for (const row of document.querySelectorAll(`[data-sku="${CSS.escape(sku)}"]`)) {
    if (versionOf(row) > version) continue;
    row.dataset.version = version;
    for (const place of row.querySelectorAll("[data-of]")) put(place, String(valueOf(place.dataset.of)));
  }
}

// --- Whole pieces of a page ----------------------------------------------------------------

let isPressed = false;
for (const [name, is] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
  addEventListener(name, () => { isPressed = is; });
}

// What somebody works with is left alone: a focus, a mark, a choice, something typed, and buttons
// under the pointer, which would be others all of a sudden.
function isInUse(place) {
  const selection = getSelection();
  const isChanged = (one) => one.type !== "hidden" && (one.checked !== one.defaultChecked || one.value !== one.defaultValue);
  return place.contains(document.activeElement) || place.querySelector("details[open]") !== null ||
    [...place.querySelectorAll("input, textarea")].some(isChanged) ||
    (place.matches(":hover") && place.querySelector("button") !== null) ||
    (!selection.isCollapsed && selection.containsNode(place, true));
}

// A page that was read is older than what was heard since it was asked for.
function isOlder(now, place) {
  const [read, heard] = [now, place].map((one) => one.querySelector("[data-version]"));
  return read !== null && heard !== null && versionOf(read) < versionOf(heard);
}

function takeOver(fresh) {
  for (const row of fresh.querySelectorAll("[data-sku]")) {
    const valueOf = (name) => {
      const place = row.querySelector(`[data-of="${name}"]`);
      return place.value ?? place.textContent;
    };
    putNumbers(row.dataset.sku, versionOf(row), valueOf);
  }
  // The forms stay those of this page, or nothing would ever be as it was.
  const mark = document.querySelector("[name=form]").value;
  for (const one of fresh.querySelectorAll("[name=form]")) one.setAttribute("value", mark);
  for (const place of document.querySelectorAll("[data-live]")) {
    const now = fresh.querySelector(`[data-live="${CSS.escape(place.dataset.live)}"]`);
    if (now && !now.isEqualNode(place) && !isOlder(now, place) && !isInUse(place)) {
      place.replaceWith(document.adoptNode(now));
    }
  }
}

let isDue = false;
let readAt = Date.now();
let isReading = false;

async function readAnew() {
  const age = Date.now() - readAt;
  if (isReading || isPressed || document.hidden || age < (isDue ? SOON : LATE)) return;
  isReading = true;
  isDue = false;
  try {
    const answer = await fetch(location.href);
    const text = await answer.text();
    if (answer.redirected) say("signed out");
    if (answer.ok && !answer.redirected && !isPressed) {
      takeOver(new DOMParser().parseFromString(text, "text/html"));
    }
  } catch {
    say("not live");
  } finally {
    isReading = false;
    readAt = Date.now();
  }
}

let events = null;

// Pages that nobody looks at do not listen: a browser has six connections to a server.
function listen() {
  if (document.hidden) {
    events?.close();
    events = null;
    return;
  }
  if (events) return;
  isDue = true;
  events = new EventSource("/live");
  events.onopen = () => say("live");
  events.onerror = () => say("not live");
  const note = () => { isDue = true; };
  for (const name of ["low_stock", "oversold", "conflict", "run", "lagged"]) events.addEventListener(name, note);
  events.addEventListener("stock", (event) => {
    const sku = JSON.parse(event.data);
    putNumbers(sku.sku, sku.version, (name) => sku[name]);
    note();
  });
}

function follow() {
  listen();
  document.addEventListener("visibilitychange", listen);
  addEventListener("pagehide", () => events?.close());
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  setInterval(readAnew, 500);
}

// A page of the past does not change.
const isPast = new URLSearchParams(location.search).get("at");
if (live && !isPast && document.querySelector("[data-live], [data-sku]")) follow();

// --- Keystrokes ----------------------------------------------------------------------------

document.addEventListener("input", ({ target }) => {
  if (target.matches("input.count[data-of]")) target.classList.toggle("changed", target.value !== target.nextElementSibling.value);
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-sure]");
  if (button && !confirm(button.dataset.sure)) event.preventDefault();
});

// What was done is said once, not again when the page is loaded anew.
const address = new URL(location.href);
if (address.searchParams.has("done")) {
  address.searchParams.delete("done");
  history.replaceState(null, "", address);
}

// "/" goes to the search, as in many tools.
document.addEventListener("keydown", (event) => {
  const search = document.querySelector('[role="search"] input');
  if (event.key === "/" && search && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    search.focus();
  }
});
