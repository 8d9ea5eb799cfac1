// The page at "/": lists SKUs and what every channel shows, and asks anew every two seconds. It
// knows nothing that the public API does not say.
"use strict";

const REFRESH_MS = 2000;
const PAGE = 25;
const byId = (id) => document.getElementById(id);
const table = document.querySelector("table");
let session = null;
let cursor = null;
let next = null;
let busy = false;

function readSession() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.get("token") && given.get("org")) {
    sessionStorage.setItem("trueup", JSON.stringify({ org: given.get("org"), token: given.get("token") }));
    history.replaceState(null, "", location.pathname);
  }
  return JSON.parse(sessionStorage.getItem("trueup") || "null");
}

async function get(path) {
  const answer = await fetch("/sales-channel" + path, {
    headers: { authorization: "Bearer " + session.token, orgid: session.org },
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail || body.title || answer.status);
  return body;
}

function cell(row, text, className) {
  const made = row.insertCell();
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function headings(channels) {
  byId("head").replaceChildren(...["SKU", "On hand", "Reserved", "Available", ...channels].map((name) => {
    const made = document.createElement("th");
    made.scope = "col";
    made.textContent = name;
    return made;
  }));
}

function show(items, channels, views) {
  headings(channels);
  const rows = byId("rows");
  rows.replaceChildren();
  items.forEach((item, at) => {
    const row = rows.insertRow();
    cell(row, item.sku);
    cell(row, item.quantity, item.lowStock ? "low" : "").title = item.lowStock ? "low stock" : "";
    cell(row, item.reserved);
    cell(row, item.available);
    for (const channel of channels) {
      const view = views[at].channels[channel] || { status: "unmapped" };
      const made = cell(row, view.quantity ?? "–", view.status);
      const status = document.createElement("span");
      status.className = "status";
      status.textContent = view.status;
      if (view.expected !== undefined && view.expected !== view.quantity) {
        status.textContent += " → " + view.expected;
      }
      made.append(status);
    }
  });
  table.hidden = false;
}

async function refresh() {
  if (!session || busy) return;
  busy = true;
  try {
    const filter = new FormData(byId("filter"));
    const query = new URLSearchParams({ limit: PAGE });
    if (filter.get("search")) query.set("search", filter.get("search"));
    if (filter.get("low")) query.set("lowStock", "true");
    if (cursor) query.set("cursor", cursor);
    const page = await get("/inventory?" + query);
    const channels = (await get("/channels")).items.map((channel) => channel.channelId || channel.id);
    const views = await Promise.all(page.items.map((item) =>
      get("/inventory/" + encodeURIComponent(item.sku) + "/channels")));
    show(page.items, channels, views);
    next = page.nextCursor;
    byId("more").hidden = !next && !cursor;
    byId("more").textContent = next ? "Next page" : "First page";
    byId("state").textContent = "Live · " + new Date().toLocaleTimeString();
  } catch (error) {
    byId("state").textContent = "Trouble: " + error.message;
  } finally {
    busy = false;
  }
}

function start() {
  session = readSession();
  byId("login").hidden = Boolean(session);
  byId("filter").hidden = !session;
  if (session) refresh();
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = new FormData(event.target);
  sessionStorage.setItem("trueup", JSON.stringify({ org: given.get("org"), token: given.get("token") }));
  start();
});
byId("filter").addEventListener("input", () => { cursor = null; refresh(); });
byId("filter").addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
byId("more").addEventListener("click", () => { cursor = next; refresh(); });
byId("leave").addEventListener("click", () => {
  sessionStorage.removeItem("trueup");
  location.reload();
});
setInterval(refresh, REFRESH_MS);
start();
