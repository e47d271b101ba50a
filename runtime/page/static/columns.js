// What the network takes beside the image: a field a column; what is left empty comes from the image's own attributes.

import { byId, make, show } from "./dom.js";

let columns = [];

/** Make the fields; `again` is called when their values are to be used for the image that is shown. */
export function startColumns(given, again) {
  columns = given;
  byId("beside-values").replaceChildren(...columns.map(field));
  byId("beside").addEventListener("submit", (event) => {
    event.preventDefault();
    again();
  });
  show(byId("beside"), columns.length > 0);
}

function field(column) {
  const id = `column-${column.name}`;
  const hint = column.dicom ? `${column.allowed}; or from ${column.dicom}` : column.allowed;
  const input = column.categories.length
    ? make("select", { id, children: ["", ...column.categories].map((word) => make("option", { text: word, value: word })) })
    : make("input", { id, type: "text", inputmode: "decimal", autocomplete: "off" });
  input.setAttribute("aria-describedby", `${id}-hint`);
  const needed = column.is_needed ? " (needed)" : "";
  return make("div", { kind: "beside", children: [
    make("label", { for: id, text: `${column.name.replaceAll("_", " ")}${needed}` }),
    input,
    make("span", { kind: "hint", id: `${id}-hint`, text: hint }),
  ] });
}

/** A header and not the address, which would stand in histories and logs. */
export function columnHeaders() {
  const filled = columns.map(({ name }) => [name, byId(`column-${name}`).value.trim()]).filter(([, value]) => value);
  if (!filled.length) return {};
  return { "Medfm-Columns": encodeURIComponent(JSON.stringify(Object.fromEntries(filled))) };
}

export function sourcesInWords(sources) {
  const words = Object.entries(sources ?? {}).map(([name, source]) =>
    `${name.replaceAll("_", " ")}: ${source === "argument" ? "given here" : source}`);
  return words.length ? ` Beside the image: ${words.join(", ")}.` : "";
}
