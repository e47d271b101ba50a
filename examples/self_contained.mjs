// A self-contained file in JavaScript: npm install --ignore-scripts onnxruntime-node
//
//   node examples/self_contained.mjs model.onnx images.json
//
// images.json lists decoded images: [{"file": "a.raw", "height": 256, "width": 256, "channels": 3}, ...], where a.raw
// holds height x width x channels bytes, row by row. Prints one line of JSON an image.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";

const ort = createRequire(resolve("package.json"))("onnxruntime-node"); // installed where this is called
const [model, list] = process.argv.slice(2);
const session = await ort.InferenceSession.create(model);
for (const { file, height, width, channels } of JSON.parse(readFileSync(list))) {
  const bytes = new Uint8Array(readFileSync(resolve(dirname(list), file)));
  const pixels = new ort.Tensor("uint8", bytes, [height, width, channels]);
  const { logits, probabilities, findings } = await session.run({ pixels });
  console.log(JSON.stringify({
    logits: Array.from(logits.data),
    probabilities: Array.from(probabilities.data),
    findings: Array.from(findings.data, Boolean),
  }));
}
