// What every part of the page needs: elements by their id, new ones from text alone, and the server's answers.

export const byId = (id) => document.getElementById(id);

/** A new element; `text` is never markup. */
export function make(tag, { text, kind, children = [], ...attributes } = {}) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function show(element, isShown) {
  element.hidden = !isShown;
}

/** What the server says no with; `status` 0: it was not reached. */
export class Refusal extends Error {
  constructor(message, status = 0, exitCode = 2) {
    super(message);
    this.status = status;
    this.exitCode = exitCode;
  }
}

/** The answer of the server to a GET, or to a POST where there is a body. */
export async function ask(path, body, signal, headers = {}) {
  const options = { method: body === undefined ? "GET" : "POST", body, signal, headers, cache: "no-store",
    credentials: "same-origin" };
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the page's server does not answer, or broke off; see whether it still runs, and reload the page");
  }
  if (response.ok) return response;
  let sentence = `the server answered with status ${response.status}`;
  let exitCode = 2;
  try {
    const answer = await response.json();
    sentence = answer.error ?? sentence;
    exitCode = answer.exit_code ?? exitCode;
  } catch { /* no JSON: the status says enough */ }
  const refusal = new Refusal(sentence, response.status, exitCode);
  if (response.status === 401) document.dispatchEvent(new CustomEvent("session-ended"));
  throw refusal;
}

/** A picture of the server's, to be shown; give the one before to be forgotten. */
export function pictureUrl(base64, before) {
  if (before) URL.revokeObjectURL(before);
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
}

export const percent = (value) => `${Math.round(1000 * value) / 10} %`;
export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "");
