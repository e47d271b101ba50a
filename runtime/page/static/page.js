// The page: a session by the token, then an image, and a node's queue where there is one.

import { ask, byId, make, percent, sentence, show } from "./dom.js";
import { startImage } from "./image.js";
import { startQueue, stopQueue } from "./queue.js";

let isStarted = false;

async function start() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", "/"); // neither in the address nor in the history
    await logIn(token);
  } else {
    await open();
  }
}

async function logIn(token) {
  show(byId("login-error"), false);
  try {
    await ask("/api/login", JSON.stringify({ token }));
  } catch (error) {
    showLogin(error.message);
    return;
  }
  byId("token").value = "";
  await open();
}

async function open() {
  let facts;
  try {
    facts = await (await ask("/api/page")).json();
  } catch (error) {
    showLogin(error.status === 401 ? "" : error.message);
    return;
  }
  describe(facts);
  show(byId("login"), false);
  show(byId("log-out"), true);
  show(byId("views"), facts.has_queue);
  if (!isStarted) startImage(facts);
  isStarted = true;
  choose(facts.has_queue && location.hash !== "#image" ? "queue" : "image");
}

function showLogin(problem) {
  stopQueue();
  for (const id of ["image", "queue", "views", "use", "log-out"]) show(byId(id), false);
  byId("bundle").textContent = "";
  show(byId("login"), true);
  byId("login-error").textContent = sentence(problem);
  show(byId("login-error"), Boolean(problem));
  byId("token").focus();
}

function describe(facts) {
  byId("bundle").textContent = facts.bundle;
  byId("intended").textContent = facts.intended_use || "not declared";
  show(byId("research"), facts.is_research);
  show(byId("use"), true);
  byId("limit").textContent = `, up to ${Math.floor(facts.max_upload_bytes / 1e6)} MB`;
  byId("about-input").textContent = `It sees every image at ${facts.input}.`;
  byId("about-findings").replaceChildren(...facts.findings.map((finding) => describeFinding(finding, facts.measure)));
}

function describeFinding({ name, threshold, sensitivity, specificity }, measure) {
  const found = sensitivity === null ? "" : `sensitivity ${percent(sensitivity)}, `;
  const words = threshold === null
    ? "no operating point"
    : `called from a ${measure} of ${threshold.toFixed(3)} on; on its validation cases ${found}`
      + `specificity ${percent(specificity)}`;
  return make("li", { children: [make("b", { text: name }), make("span", { text: words })] });
}

function choose(view) {
  for (const name of ["image", "queue"]) {
    show(byId(name), name === view);
    byId(`show-${name}`).setAttribute("aria-pressed", String(name === view));
  }
  if (view === "queue") startQueue();
  else stopQueue();
}

byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  logIn(byId("token").value.trim());
});
byId("show-image").addEventListener("click", () => choose("image"));
byId("show-queue").addEventListener("click", () => choose("queue"));
byId("log-out").addEventListener("click", async () => {
  try {
    await ask("/api/logout", "{}");
  } finally {
    location.reload(); // nothing of the images stays in the page
  }
});
document.addEventListener("session-ended", () => {
  if (byId("login").hidden) showLogin("The session has ended; give the token again");
});
start();
