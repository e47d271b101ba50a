// An image: chosen or dropped, read by the server, its findings as bars, and the heat map over it on request.

import { columnHeaders, sourcesInWords, startColumns } from "./columns.js";
import { ask, byId, make, pictureUrl, sentence, show } from "./dom.js";

const FEW = 8; // findings that are shown at once
const WORDS = { true: "called", false: "not called", null: "no operating point" };
let facts;
let file = null; // the image that is shown; it is sent again for its heat map
let reading = null;
let mapping = null;
let picture = null;
let layer = null;

export function startImage(given) {
  facts = given;
  startColumns(facts.columns, () => file !== null && read(file));
  const drop = byId("drop");
  byId("file").addEventListener("change", (event) => choose(event.target.files));
  for (const kind of ["dragover", "dragenter"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!byId("image").hidden) choose(event.dataTransfer.files);
  });
  byId("map-start").addEventListener("click", makeMap);
  byId("map-cancel").addEventListener("click", () => mapping?.abort());
  byId("map-strength").addEventListener("input", applyStrength);
  byId("all-findings").addEventListener("click", showAll);
}

function choose(files) {
  if (files.length === 0) return;
  if (files.length > 1) {
    forget();
    refuse("", `${files.length} files were given; this page reads one image at a time, give one`, 2);
    return;
  }
  read(files[0]);
  byId("file").value = ""; // the same file may be chosen again
}

/** Leave nothing of the image before. */
function forget() {
  reading?.abort();
  mapping?.abort();
  file = null;
  for (const id of ["seen", "map-tools", "outcome", "about", "working"]) show(byId(id), false);
  clearMap();
  byId("picture").removeAttribute("src");
  document.body.classList.remove("has-image");
}

async function read(chosen) {
  forget();
  if (chosen.size > facts.max_upload_bytes) {
    const most = Math.floor(facts.max_upload_bytes / 1e6);
    refuse(chosen.name, `the image has ${Math.ceil(chosen.size / 1e6)} MB; this page takes up to ${most} MB`, 2);
    return;
  }
  const own = reading = new AbortController();
  const working = byId("working");
  working.textContent = `Reading ${chosen.name} …`;
  show(working, true);
  try {
    const answer = await (await ask("/api/predict", chosen, own.signal, columnHeaders())).json();
    if (own !== reading) return;
    file = chosen;
    describe(chosen.name, answer);
  } catch (error) {
    if (own !== reading || error.name === "AbortError") return;
    file = facts.columns.length ? chosen : null; // its values may be given yet
    refuse(chosen.name, error.message, error.exitCode);
  } finally {
    if (own === reading) show(working, false);
  }
}

function refuse(name, words, exitCode) {
  outcome(exitCode === 4 ? "Refused" : "Not read", name);
  const message = byId("outcome-words");
  message.textContent = sentence(words.replace(/^image data: /, "")); // its name stands above
  message.classList.add("refused");
  show(message, true);
  byId("outcome-by").textContent = exitCode === 4 ? "No finding is given rather than a wrong one." : "";
  byId("outcome").focus();
}

function outcome(title, name) {
  byId("outcome-title").textContent = title;
  byId("outcome-file").textContent = name;
  byId("findings").replaceChildren();
  for (const id of ["outcome-words", "remarks-part", "key", "all-findings"]) show(byId(id), false);
  byId("outcome-by").textContent = "";
  show(byId("outcome"), true);
}

function describe(name, answer) {
  outcome(title(answer), name);
  if (answer.not_reliable) {
    const message = byId("outcome-words");
    const typicality = answer.typicality === null ? "" : ` (typicality ${answer.typicality.toPrecision(3)})`;
    message.textContent = sentence(answer.not_reliable + typicality);
    message.classList.add("refused");
    show(message, true);
  }
  const sorted = [...answer.findings].sort((a, b) => b.called - a.called || b.probability - a.probability);
  byId("findings").replaceChildren(...sorted.map(row));
  show(byId("key"), sorted.some(({ threshold }) => threshold !== null));
  limitRows(sorted.length);
  byId("remarks").replaceChildren(...answer.remarks.map(({ words }) => make("li", { text: sentence(words) })));
  show(byId("remarks-part"), answer.remarks.length > 0);
  byId("outcome-by").textContent = `Read by ${answer.variant} in ${answer.elapsed_ms < 10 ? answer.elapsed_ms.toFixed(1) : Math.round(answer.elapsed_ms)} ms.${sourcesInWords(answer.columns)}`;
  showPicture(answer);
  offerMap(answer);
  byId("outcome").focus();
}

function title({ findings, label, not_reliable: notReliable }) {
  if (notReliable && !findings.length) return "Not reliable: no finding is given";
  if (label !== null) return label;
  const called = findings.filter((finding) => finding.called);
  if (called.length) return `Called: ${called.map(({ name }) => name).join(", ")}`;
  return findings.some((finding) => finding.called === null) ? "Probabilities" : "No finding is called";
}

function row({ name, probability, threshold, called }) {
  const part = make("div", { kind: "part" });
  part.style.width = `${100 * probability}%`;
  const bar = make("div", { kind: "bar", "aria-hidden": "true", children: [part] });
  if (threshold !== null) {
    const point = make("div", { kind: "point" });
    point.style.left = `${100 * threshold}%`;
    bar.append(point);
  }
  const words = threshold === null ? WORDS[called] : `${WORDS[called]}; operating point ${threshold.toFixed(3)}`;
  const line = make("div", { kind: "line", children: [
    make("span", { kind: "name", text: name }),
    make("span", { kind: "value", text: probability.toFixed(3) }),
  ] });
  return make("li", { kind: called ? "called" : "", children: [line, bar, make("span", { kind: "word", text: words })] });
}

function limitRows(count) {
  const rows = [...byId("findings").children];
  rows.forEach((item, number) => show(item, number < FEW || count <= FEW + 1));
  const button = byId("all-findings");
  button.textContent = `Show all ${count} findings`;
  show(button, count > FEW + 1);
}

function showAll() {
  for (const item of byId("findings").children) show(item, true);
  show(byId("all-findings"), false);
}

function showPicture({ picture: base64, width, height }) {
  picture = pictureUrl(base64, picture);
  const image = byId("picture");
  image.src = picture;
  image.width = width;
  image.height = height;
  const outlined = facts.is_segmentation;
  image.alt = outlined ? "The image with its structures outlined" : "The image as the network sees it";
  byId("seen-caption").textContent = outlined ? "What the network marks, at the image's own size"
    : `As the network sees it: ${width} × ${height} px, cut and resized`;
  show(byId("seen"), true);
  document.body.classList.add("has-image");
}

function offerMap({ findings }) {
  const select = byId("map-finding");
  select.replaceChildren(...findings.map(({ name, number }) => make("option", { text: name, value: number })));
  const chosen = findings.find((finding) => finding.is_chosen);
  if (chosen) select.value = String(chosen.number);
  show(byId("map-tools"), findings.length > 0 && !facts.is_segmentation);
  byId("map-words").textContent = "";
}

function clearMap() {
  const image = byId("layer");
  show(image, false);
  image.removeAttribute("src");
  show(byId("map-shown"), false);
  byId("map-words").textContent = "";
}

async function makeMap() {
  if (file === null || mapping !== null) return;
  const own = mapping = new AbortController();
  clearMap();
  mapIsRunning(true);
  try {
    const path = `/api/heat-map?finding=${byId("map-finding").value}`;
    const answer = await lastLine(await ask(path, file, own.signal, columnHeaders()), own);
    if (own === mapping && file !== null) showMap(answer);
  } catch (error) {
    byId("map-words").textContent = own.signal.aborted ? "Cancelled." : sentence(error.message);
  } finally {
    if (own === mapping) mapping = null;
    mapIsRunning(false);
  }
}

function mapIsRunning(isRunning) {
  const hadFocus = document.activeElement === byId(isRunning ? "map-start" : "map-cancel");
  show(byId("map-running"), isRunning);
  show(byId("map-cancel"), isRunning);
  show(byId("map-start"), !isRunning);
  byId("map-finding").disabled = isRunning;
  byId("map-progress").value = 0;
  if (isRunning) byId("map-words").textContent = "Covering the image, place by place …";
  if (hadFocus) byId(isRunning ? "map-cancel" : "map-start").focus();
}

/** Follow lines of JSON to the last, which is the map. */
async function lastLine(response, own) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let answer = null;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (text + value).split("\n");
    text = lines.pop();
    for (const line of lines) {
      answer = JSON.parse(line);
      if (answer.total) byId("map-progress").value = answer.done / answer.total;
    }
  }
  if (answer?.error) throw new Error(answer.error);
  if (!answer?.layer || own.signal.aborted) throw new Error("the heat map broke off; try again");
  return answer;
}

function showMap({ finding, layer: base64, method, speaks_for_it: speaks, strongest }) {
  layer = pictureUrl(base64, layer);
  const image = byId("layer");
  image.src = layer;
  image.alt = `Heat map of ${finding}`;
  applyStrength();
  show(image, true);
  show(byId("map-shown"), speaks);
  const isCovered = method === "occlusion";
  const most = strongest.toFixed(2);
  const warmest = {
    occlusion: `covering the warmest takes away ${most} log-odds`,
    "class activation": `the warmest adds ${most} to the sum whose mean over all places is the log-odds, but for a constant`,
    "class token attention": `the warmest adds ${most} to the sum whose mean is what the last attention adds to the log-odds`,
  }[method];
  const none = isCovered ? "covering none of them lowers its probability" : "all of them add to what speaks against it";
  byId("map-words").textContent = speaks
    ? `Warm places speak for ${finding}: ${warmest} (${method}). A heat map shows where the network looked, not that it is right.`
    : `No place speaks for ${finding}: ${none}.`;
}

function applyStrength() {
  byId("layer").style.opacity = String(byId("map-strength").value / 100);
}

