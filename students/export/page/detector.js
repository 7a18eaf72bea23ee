// Finds faces in photos by YuNet (Wu, Peng, Yu: YuNet, Machine Intelligence Research 2023), decoded as in OpenCV.

import { shrink } from "./pixels.js";
import { session } from "./student.js";

const LARGEST = 640; // pixels per side; a larger photo is scaled down first
const SCORE = 0.7; // the lowest score of a face
const OVERLAP = 0.3; // intersection over union; of two boxes above it, the one with the lower score is dropped

export class Detector {
  // ort: a runtime. Always in WebAssembly: the network is small, and photos differ in size.
  static async open(ort, about) {
    const detector = new Detector();
    detector.ort = ort;
    detector.session = await session(ort, about.detector, "wasm");
    return detector;
  }

  // The five points (eyes, nose tip, mouth corners; left before right) of every face, the largest face first.
  async find(photo) {
    const scale = Math.min(1, LARGEST / Math.max(photo.width, photo.height));
    const { width, height, data } = scale < 1 ? shrink(photo, scale, true) : photo;
    const [across, down] = [32 * Math.ceil(width / 32), 32 * Math.ceil(height / 32)];
    const input = new Float32Array(3 * across * down); // blue, green, red in [0, 255]; black beyond the photo
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < 3; c++) {
          input[((2 - c) * down + y) * across + x] = data[3 * (y * width + x) + c];
        }
      }
    }
    const outputs = await this.session.run({ input: new this.ort.Tensor("float32", input, [1, 3, down, across]) });
    const faces = [8, 16, 32].flatMap((stride) => decoded(outputs, stride, across / stride));
    const kept = [];
    for (const face of faces.sort((one, other) => other.score - one.score)) {
      if (kept.every((better) => overlap(face.box, better.box) <= OVERLAP)) kept.push(face);
    }
    kept.sort((one, other) => other.box[2] * other.box[3] - one.box[2] * one.box[3]);
    return kept.map((face) => face.points.map(([x, y]) => [x / scale, y / scale]));
  }
}

function decoded(outputs, stride, columns) {
  const [cls, obj, bbox, kps] = ["cls", "obj", "bbox", "kps"].map((kind) => outputs[`${kind}_${stride}`].data);
  const clip = (x) => Math.min(1, Math.max(0, x));
  const faces = [];
  for (let i = 0; i < cls.length; i++) {
    const score = Math.sqrt(clip(cls[i]) * clip(obj[i]));
    if (score < SCORE) continue;
    const [column, row] = [i % columns, Math.floor(i / columns)];
    const [w, h] = [Math.exp(bbox[4 * i + 2]) * stride, Math.exp(bbox[4 * i + 3]) * stride];
    const [x, y] = [(column + bbox[4 * i]) * stride - w / 2, (row + bbox[4 * i + 1]) * stride - h / 2];
    const points = [0, 1, 2, 3, 4].map((p) => {
      return [(column + kps[10 * i + 2 * p]) * stride, (row + kps[10 * i + 2 * p + 1]) * stride];
    });
    faces.push({ score, box: [x, y, w, h], points });
  }
  return faces;
}

function overlap([x, y, w, h], [u, v, m, n]) {
  const across = Math.min(x + w, u + m) - Math.max(x, u);
  const down = Math.min(y + h, v + n) - Math.max(y, v);
  if (across <= 0 || down <= 0) return 0;
  return (across * down) / (w * h + m * n - across * down);
}
