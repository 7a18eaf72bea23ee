// The page: two pictures in, their swap out. Nothing is sent anywhere; index.html's Content-Security-Policy sees to it.

import { Detector } from "./detector.js";
import { align, decode, draw, fromFloats, paste, resize, toFloats } from "./pixels.js";
import { labelled } from "./png.js";
import { hasWebGPU, Student } from "./student.js";

const RUNS = 20;
const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };
const find = (id) => document.getElementById(id);
// What was chosen: file, photo and points where the face was found, crop, and the source's embedding.
const sides = { source: {}, target: {} };
let about, student, detector, swap, pasted;

// One thing after the other: a picture that is chosen while another is worked on waits for its turn.
let queue = Promise.resolve();
function inTurn(work) {
  const done = queue.then(work);
  queue = done.catch(() => {});
  return done;
}

function tell(id, text, bad = false) {
  find(id).textContent = text;
  find(id).classList.toggle("bad", bad);
}

function fail(error) {
  console.error(error);
  tell("error", error.message || String(error));
  find("error").hidden = false;
}

function show(picture, canvas) {
  draw(picture, canvas);
  canvas.hidden = false;
  const place = canvas.closest(".drop");
  place?.classList.add("full");
  place?.querySelector(".hint")?.setAttribute("hidden", "");
}

const ms = (value) => `${value.toFixed(1)} ms`;

function median(values) {
  values.sort((a, b) => a - b);
  return (values[(values.length - 1) >> 1] + values[values.length >> 1]) / 2;
}

async function start() {
  find("start").hidden = true;
  const answer = await fetch("about.json");
  if (!answer.ok) throw new Error(`about.json cannot be loaded (HTTP ${answer.status}); copy the whole folder again.`);
  about = await answer.json();
  describe();
  for (const side of Object.keys(sides)) listen(side);
  find("save").addEventListener("click", () => save(find("result"), "swap.png"));
  find("save-photo").addEventListener("click", () => save(find("photo"), "swapped-photo.png"));
  find("time").addEventListener("click", () => inTurn(time).catch(fail));
  find("backend").addEventListener("change", (event) => inTurn(() => use(event.target.value)).catch(fail));
  const gpu = await hasWebGPU();
  find("backend").options[0].disabled = !gpu;
  await use(gpu ? "webgpu" : "wasm", gpu ? "" : "This browser has no WebGPU. ");
}

function describe() {
  const megabytes = (part) => `${(part.bytes / 1e6).toFixed(2)} MB`;
  const rows = {
    ...about.metadata,
    resolution: `${about.resolution} × ${about.resolution} pixels`,
    weights: about.precision,
    "generator file": megabytes(about.models.generator),
    "identity encoder file": megabytes(about.models.identity_encoder),
    "face detector": about.detector ? `YuNet, ${megabytes(about.detector)}` : "none",
    runtime: `${about.runtime.package} ${about.runtime.version}`,
  };
  for (const [key, value] of Object.entries(rows)) {
    for (const [kind, text] of [["dt", key.replaceAll("_", " ")], ["dd", value]]) {
      find("about").append(Object.assign(document.createElement(kind), { textContent: text }));
    }
  }
  find("crops-only").hidden = Boolean(about.detector);
}

// Load the student in one of the backends. Where WebGPU fails, WebAssembly takes over, and the page says why.
async function use(backend, why = "") {
  find("backend").disabled = true;
  find("backend").value = backend;
  tell("backend-told", `${why}Loading ${NAMES[backend]} …`);
  try {
    const next = await Student.open(about, backend);
    await student?.close();
    student = next;
    detector = undefined;
  } catch (error) {
    if (backend !== "webgpu") throw new Error(`The student does not run here: ${error.message}`);
    console.error(error);
    find("backend").options[0].disabled = true;
    return use("wasm", `WebGPU failed (${String(error.message).split("\n")[0]}). `);
  }
  const threads = student.threads === 1 ? "one thread" : `${student.threads} threads`;
  tell("backend-told", `${why}Running in ${NAMES[backend]}${backend === "wasm" ? `, ${threads}` : ""}.`);
  find("backend").disabled = false;
  delete sides.source.embedded;
  tell("wait", "Choose a source and a target.");
  return update();
}

function listen(side) {
  const box = find(side);
  const input = box.querySelector("input[type=file]");
  const drop = box.querySelector(".drop");
  for (const radio of box.querySelectorAll("input[type=radio]")) {
    radio.disabled = radio.value === "photo" && !about.detector;
    radio.checked = radio.value === (about.detector ? "photo" : "crop");
    radio.addEventListener("change", () => sides[side].file && choose(side, sides[side].file));
  }
  input.addEventListener("change", () => input.files.length && choose(side, input.files[0]));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind.startsWith("drage") || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) choose(side, event.dataTransfer.files[0]);
    });
  }
}

// A picture for one side: cut it, show the crop, and swap if there are two. What is wrong with it is told beside it.
function choose(side, file) {
  const mode = find(side).querySelector("input[type=radio]:checked").value;
  tell(`${side}-told`, mode === "photo" ? "Looking for the face …" : "Reading …");
  return inTurn(async () => {
    sides[side] = { file };
    try {
      await cut(side, mode);
    } catch (error) {
      console.error(error);
      tell(`${side}-told`, error.message, true);
      const canvas = find(side).querySelector("canvas");
      canvas.hidden = true;
      canvas.closest(".drop").classList.remove("full");
      find(side).querySelector(".hint").removeAttribute("hidden");
    }
    await update();
  }).catch(fail);
}

async function cut(side, mode) {
  const chosen = sides[side];
  const picture = await decode(chosen.file);
  const { width, height } = picture;
  const size = `${width} × ${height}`;
  if (mode === "photo") {
    detector ??= await Detector.open(student.ort, about);
    const faces = await detector.find(picture);
    if (!faces.length) throw new Error("No face was found in this photo. Is it large enough, upright, and not hidden?");
    [chosen.points] = faces;
    chosen.photo = picture;
    chosen.crop = align(picture, chosen.points, about.resolution, about.canonical);
    const more = faces.length > 1 ? `; the largest of ${faces.length} is taken` : "";
    tell(`${side}-told`, `Face found in ${size} pixels${more}.`);
  } else {
    if (width !== height) {
      throw new Error(`This picture is ${size}; an aligned crop is square.${about.detector ? " Is it a photo?" : ""}`);
    }
    chosen.crop = resize(picture, about.resolution);
    tell(`${side}-told`, width === about.resolution ? `${size} pixels.` : `${size} pixels, resized for the student.`);
  }
  show(chosen.crop, find(side).querySelector("canvas"));
}

// Swap what is chosen; the source is embedded once.
async function update() {
  const { source, target } = sides;
  const ready = Boolean(student && source.crop && target.crop);
  for (const id of ["save", "time"]) find(id).disabled = !ready;
  find("photo").hidden = true;
  if (!ready) {
    find("result").querySelector("canvas").hidden = true;
    find("wait").removeAttribute("hidden");
    [swap, pasted] = [];
    tell("result-told", "");
    return;
  }
  source.embedded ??= await student.embed(toFloats(source.crop));
  const made = await student.swap(toFloats(target.crop), source.embedded);
  swap = fromFloats(made.swap, about.resolution);
  show(swap, find("result").querySelector("canvas"));
  find("encoder-ms").textContent = ms(source.embedded.ms);
  find("generator-ms").textContent = ms(made.ms);
  tell("result-told", "Single runs; “Time 20 runs” gives medians.");
  if (target.photo) {
    pasted = paste(swap, target.photo, target.points, about.canonical);
    find("photo").hidden = false;
    show(pasted, find("photo").querySelector("canvas"));
  }
}

async function time() {
  const [source, target] = [toFloats(sides.source.crop), toFloats(sides.target.crop)];
  const [encoder, generator] = [[], []];
  for (let run = 1; run <= RUNS; run++) {
    tell("result-told", `Run ${run} of ${RUNS} …`);
    await new Promise((next) => setTimeout(next)); // lets the page be drawn
    const embedded = await student.embed(source);
    encoder.push(embedded.ms);
    generator.push((await student.swap(target, embedded)).ms);
  }
  find("encoder-ms").textContent = ms(median(encoder));
  find("generator-ms").textContent = ms(median(generator));
  tell("result-told", `Medians of ${RUNS} runs in ${NAMES[student.backend]}.`);
}

async function save(box, name) {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await labelled(box.querySelector("canvas")));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    fail(error);
  }
}

// For tests, and for whoever writes a page of their own: numbers in, numbers out. Crops are floats in [-1, 1], channel
// by channel (Float32Array), or RGB bytes row by row (Uint8Array), of the student's size.
const asFloats = (crop) =>
  crop instanceof Float32Array ? crop : toFloats({ width: about.resolution, height: about.resolution, data: crop });

window.swapdistill = {
  ready: inTurn(start),
  use: (backend) => inTurn(() => use(backend)),
  swap: (source, target) =>
    inTurn(async () => {
      const embedded = await student.embed(asFloats(source));
      const made = await student.swap(asFloats(target), embedded);
      return { swap: made.swap, backend: student.backend, encoder_ms: embedded.ms, generator_ms: made.ms };
    }),
  // What the page shows, when all that was asked of it is done.
  shown: () =>
    inTurn(() => ({ source: sides.source.crop, target: sides.target.crop, points: sides.target.points, swap, photo: pasted })),
  labelled: () => inTurn(() => labelled(find("result").querySelector("canvas"))),
};
window.swapdistill.ready.catch(fail);
