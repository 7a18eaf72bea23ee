// The page: takes two pictures and shows their swap. index.html's Content-Security-Policy ensures that nothing is sent.

import { Detector } from "./detector.js";
import { align, decode, draw, fromFloats, paste, resize, toFloats } from "./pixels.js";
import { labelled } from "./png.js";
import { hasWebGPU, Student } from "./student.js";

const RUNS = 20;
const NAMES = { webgpu: "WebGPU", wasm: "WebAssembly" };
const find = (id) => document.getElementById(id);
// By side: file, photo, detected faces, index of the chosen face (`taken`), crop; for the source also its embedding.
const sides = { source: {}, target: {} };
let about, student, detector, swap, pasted;

// Tasks run one after the other: a picture that is chosen while another is processed waits.
let queue = Promise.resolve();
function inTurn(work) {
  const done = queue.then(work);
  queue = done.catch(() => {});
  return done;
}

function setText(id, text, bad = false) {
  find(id).textContent = text;
  find(id).classList.toggle("bad", bad);
}

function fail(error) {
  console.error(error);
  setText("error", error.message || String(error));
  find("error").hidden = false;
  if (!student) setText("wait", "The student is not loaded.");
}

function show(picture, canvas) {
  draw(picture, canvas);
  canvas.hidden = false;
  const place = canvas.closest(".drop");
  place?.classList.add("full");
  place?.querySelector(".hint")?.setAttribute("hidden", "");
}

const ms = (value) => `${value.toFixed(1)} ms`;
const drawn = () => new Promise((next) => setTimeout(next, 10)); // lets the browser paint the new text

function median(values) {
  values.sort((a, b) => a - b);
  return (values[(values.length - 1) >> 1] + values[values.length >> 1]) / 2;
}

async function start() {
  find("start").hidden = true;
  setText("wait", "Loading the student …");
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

// Load the student in a backend. If WebGPU fails, use WebAssembly and show the reason.
async function use(backend, why = "") {
  find("backend").disabled = true;
  find("backend").value = backend;
  setText("backend-status", `${why}Loading ${NAMES[backend]} …`);
  try {
    const next = await Student.open(about, backend);
    await student?.close();
    student = next;
    detector = undefined;
  } catch (error) {
    if (backend !== "webgpu") {
      find("backend").value = student?.backend ?? backend;
      throw new Error(`The student does not run in ${NAMES[backend]}: ${error.message}`);
    }
    console.error(error);
    find("backend").options[0].disabled = true;
    return use("wasm", `WebGPU failed (${String(error.message).split("\n")[0]}). `);
  }
  const threads = student.threads === 1 ? "one thread" : `${student.threads} threads`;
  setText("backend-status", `${why}Running in ${NAMES[backend]}${backend === "wasm" ? `, ${threads}` : ""}.`);
  find("backend").disabled = false;
  delete sides.source.embedded;
  setText("wait", "Choose a source and a target.");
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
  box.querySelector(".next").addEventListener("click", () => {
    sides[side].taken = (sides[side].taken + 1) % sides[side].faces.length;
    take(side, () => cutFace(side));
  });
  input.addEventListener("change", () => input.files.length && choose(side, input.files[0]));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind.startsWith("drage") || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) choose(side, event.dataTransfer.files[0]);
    });
  }
}

// Take a picture for one side: a photo, whose largest face is chosen, or an aligned crop.
function choose(side, file) {
  const mode = find(side).querySelector("input[type=radio]:checked").value;
  setText(`${side}-status`, mode === "photo" ? "Looking for the face …" : "Reading …");
  take(side, async () => {
    sides[side] = { file };
    find(side).querySelector(".next").hidden = true;
    const picture = await decode(file);
    if (mode === "crop") return cutSquare(side, picture);
    detector ??= await Detector.open(student.ort, about);
    const faces = await detector.find(picture);
    if (!faces.length) throw new Error("No face was found in this photo. Is it large enough, upright, and not hidden?");
    sides[side] = { file, photo: picture, faces, taken: 0 };
    find(side).querySelector(".next").hidden = faces.length < 2;
    return cutFace(side);
  });
}

// Run `work`, which sets the crop of one side; show the crop; swap if both are there. Errors appear beside the picture.
function take(side, work) {
  return inTurn(async () => {
    const canvas = find(side).querySelector("canvas");
    try {
      await work();
      show(sides[side].crop, canvas);
    } catch (error) {
      console.error(error);
      setText(`${side}-status`, error.message, true);
      canvas.hidden = true;
      canvas.closest(".drop").classList.remove("full");
      find(side).querySelector(".hint").removeAttribute("hidden");
    }
    await update();
  }).catch(fail);
}

function cutFace(side) {
  const { photo, faces, taken } = sides[side];
  sides[side].crop = align(photo, faces[taken], about.resolution, about.canonical);
  delete sides[side].embedded;
  const which = faces.length > 1 ? `; face ${taken + 1} of ${faces.length} by size` : "";
  setText(`${side}-status`, `Face found in ${photo.width} × ${photo.height} pixels${which}.`);
}

function cutSquare(side, picture) {
  const size = `${picture.width} × ${picture.height}`;
  if (picture.width !== picture.height) {
    throw new Error(`This picture is ${size}; an aligned crop is square.${about.detector ? " Is it a photo?" : ""}`);
  }
  sides[side].crop = resize(picture, about.resolution);
  const resized = picture.width === about.resolution ? "" : ", resized for the student";
  setText(`${side}-status`, `${size} pixels${resized}.`);
}

// Swap the chosen faces. Each source is embedded once.
async function update() {
  const { source, target } = sides;
  const ready = Boolean(student && source.crop && target.crop);
  for (const id of ["save", "time"]) find(id).disabled = !ready;
  find("photo").hidden = true;
  if (!ready) {
    find("result").querySelector("canvas").hidden = true;
    find("wait").removeAttribute("hidden");
    [swap, pasted] = [];
    setText("result-status", "");
    return;
  }
  setText("result-status", "Swapping …");
  await drawn();
  source.embedded ??= await student.embed(toFloats(source.crop));
  const result = await student.swap(toFloats(target.crop), source.embedded);
  swap = fromFloats(result.swap, about.resolution);
  show(swap, find("result").querySelector("canvas"));
  find("encoder-ms").textContent = ms(source.embedded.ms);
  find("generator-ms").textContent = ms(result.ms);
  setText("result-status", "Single runs; “Time 20 runs” gives medians.");
  if (target.photo) {
    pasted = paste(swap, target.photo, target.faces[target.taken], about.canonical);
    find("photo").hidden = false;
    show(pasted, find("photo").querySelector("canvas"));
  }
}

async function time() {
  const [source, target] = [toFloats(sides.source.crop), toFloats(sides.target.crop)];
  const [encoder, generator] = [[], []];
  for (let run = 1; run <= RUNS; run++) {
    setText("result-status", `Run ${run} of ${RUNS} …`);
    await drawn();
    const embedded = await student.embed(source);
    encoder.push(embedded.ms);
    generator.push((await student.swap(target, embedded)).ms);
  }
  find("encoder-ms").textContent = ms(median(encoder));
  find("generator-ms").textContent = ms(median(generator));
  setText("result-status", `Medians of ${RUNS} runs in ${NAMES[student.backend]}.`);
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

// The API of tests and of other pages. Crops have the student's size: floats in [-1, 1], channel by channel
// (Float32Array), or RGB bytes, row by row (Uint8Array).
const asFloats = (crop) =>
  crop instanceof Float32Array ? crop : toFloats({ width: about.resolution, height: about.resolution, data: crop });

window.swapdistill = {
  ready: inTurn(start),
  use: (backend) => inTurn(() => use(backend)),
  swap: (source, target) =>
    inTurn(async () => {
      const embedded = await student.embed(asFloats(source));
      const result = await student.swap(asFloats(target), embedded);
      return { swap: result.swap, backend: student.backend, encoder_ms: embedded.ms, generator_ms: result.ms };
    }),
  // The pictures on the page, once all queued work has finished.
  shown: () =>
    inTurn(() => {
      const { source, target } = sides;
      return { source: source.crop, target: target.crop, face: target.faces?.[target.taken], swap, photo: pasted };
    }),
  labelled: () => inTurn(() => labelled(find("result").querySelector("canvas"))),
};
window.swapdistill.ready.catch(fail);
