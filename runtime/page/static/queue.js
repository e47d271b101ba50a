// A node's queue, looked at every few seconds while it is shown: results, what waits, quarantine and its replay.

import { ask, byId, make, sentence, show } from "./dom.js";

const EVERY_MS = 3000;
let timer = null;
let isOpen = false;

export function startQueue() {
  isOpen = true;
  look();
}

export function stopQueue() {
  isOpen = false;
  clearTimeout(timer);
}

document.addEventListener("visibilitychange", () => {
  if (isOpen && !document.hidden) look();
});

async function look() {
  clearTimeout(timer);
  try {
    describe(await (await ask("/api/queue")).json());
  } catch (error) {
    say(sentence(error.message), true);
  }
  if (isOpen && !document.hidden) timer = setTimeout(look, EVERY_MS);
}

function describe(view) {
  say(view.faults.length ? sentence(`the node is not well: ${view.faults.join("; ")}`) : "", true);
  byId("results-count").textContent = count(view.results.length, view.results.length, "the last");
  byId("waiting-count").textContent = count(view.waiting.length, view.waiting_total, "the first");
  byId("quarantine-count").textContent = count(view.quarantine.length, view.quarantine_total, "the first");
  fill("results", view.results.map(resultRow), "Nothing was read since the node was started.");
  fill("waiting", view.waiting.map(waitingRow), "Nothing waits.");
  fill("quarantine", view.quarantine.map(quarantineRow), "Nothing is set aside.");
}

function count(shown, total, which) {
  if (total === 0) return "";
  return shown < total ? `${which} ${shown} of ${total}` : String(total);
}

/** Put the rows in place; where somebody's focus was on a button, it stays on it. */
function fill(id, rows, nothing) {
  const body = byId(id).tBodies[0];
  const focused = body.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  const columns = byId(id).tHead.rows[0].cells.length;
  body.replaceChildren(...(rows.length ? rows : [make("tr", { children: [
    make("td", { kind: "none", text: nothing, colspan: columns })] })]));
  if (focused) body.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
}

function cell(text, { small, strong, kind } = {}) {
  const children = strong ? [make("b", { text })] : [text];
  if (small) children.push(make("small", { text: small }));
  return make("td", { kind, children });
}

function resultRow(result) {
  const rated = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
  const figures = rated.slice(0, 4).map(([name, value]) => `${name} ${value.toFixed(3)}`).join(", ");
  const small = [result.not_reliable || figures, ...result.flags].filter(Boolean).join("; ");
  let words = result.called.length ? result.called.join(", ") : "no finding called";
  if (result.not_reliable && !rated.length) words = "not reliable";
  if (result.is_urgent) words = `Urgent: ${words}`;
  return make("tr", { kind: result.is_urgent ? "urgent" : "", children: [
    cell(words, { small, strong: result.called.length > 0 }),
    cell(String(result.number)),
    cell(result.sender),
    cell(moment(result.received_at), { kind: "nowrap" }),
    cell(result.delivery, { kind: "nowrap" }),
  ] });
}

function waitingRow(image) {
  return make("tr", { children: [
    cell(String(image.priority)),
    cell(String(image.number)),
    cell(image.sender),
    cell(moment(image.received_at), { kind: "nowrap" }),
    cell(image.is_being_read ? "is being read" : "waits"),
  ] });
}

function quarantineRow(entry) {
  const button = make("button", { kind: "plain", text: "Replay", type: "button", "data-name": entry.name,
    "aria-label": `Replay ${entry.what} ${entry.name}` });
  button.addEventListener("click", () => replay(button, entry.name));
  return make("tr", { children: [
    cell(`${entry.what} ${entry.name}`, { kind: "nowrap" }),
    cell(entry.code, { small: sentence(entry.reason), strong: true }),
    cell(moment(entry.received_at), { kind: "nowrap" }),
    make("td", { kind: "act", children: [button] }),
  ] });
}

async function replay(button, name) {
  button.disabled = true;
  try {
    await ask("/api/replay", JSON.stringify({ names: [name] }));
    await look();
    say(`${name} will be tried again.`, false);
    byId("content").focus();
  } catch (error) {
    button.disabled = false;
    say(sentence(error.message), true);
  }
}

function say(words, isBad) {
  const message = byId("queue-words");
  if (message.textContent !== words) message.textContent = words;
  message.classList.toggle("refused", isBad);
  show(message, Boolean(words));
}

function moment(seconds) {
  const date = new Date(1000 * seconds);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? date.toLocaleTimeString() : date.toLocaleString();
}
