// Pictures: {width, height, data}; data holds RGB bytes, row by row. All functions give the results of the Python code.

const LARGEST_PHOTO = 4096; // pixels per side; phones cannot draw more than about 16 million pixels

// A file to a picture, as in Python: turned upright by its EXIF data, converted from its colour profile to sRGB, which
// is the colour space of a canvas, and laid over white where it is transparent.
export async function decode(file) {
  const options = { colorSpaceConversion: "default", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error(`“${file.name}” is not a picture that this browser can read; take a PNG, JPEG or WebP.`);
  });
  const shrink = Math.min(1, LARGEST_PHOTO / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(bitmap.width * shrink);
  canvas.height = Math.round(bitmap.height * shrink);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const { width, height, data: rgba } = pen.getImageData(0, 0, canvas.width, canvas.height);
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { width, height, data };
}

export function draw(picture, canvas) {
  const { width, height, data } = picture;
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let from = 0, to = 0; from < data.length; from += 3, to += 4) {
    rgba[to] = data[from];
    rgba[to + 1] = data[from + 1];
    rgba[to + 2] = data[from + 2];
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d", { alpha: false }).putImageData(new ImageData(rgba, width, height), 0, 0);
}

// Bytes to floats in [-1, 1], channel by channel, rounded like x / 127.5 - 1 in float32.
export function toFloats({ width, height, data }) {
  const area = width * height;
  const floats = new Float32Array(3 * area);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) floats[c * area + i] = Math.fround(data[3 * i + c] / 127.5) - 1;
  }
  return floats;
}

// The inverse of toFloats. A Uint8ClampedArray rounds to nearest, halves to even, and clips.
export function fromFloats(floats, size) {
  const area = size * size;
  const data = new Uint8ClampedArray(3 * area);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) data[3 * i + c] = (floats[c * area + i] + 1) * 127.5;
  }
  return { width: size, height: size, data };
}

// A square picture at another size: Lanczos with three lobes, as in Pillow (libImaging/Resample.c).
export function resize(picture, size) {
  if (picture.width === size && picture.height === size) return picture;
  const across = weighed(picture, size, false, lanczosWeights(picture.width, size));
  return weighed(across, size, true, lanczosWeights(picture.height, size));
}

// A picture scaled down by `factor`; each pixel is the mean of the area it covers, as in OpenCV's INTER_AREA. Sizes are
// rounded to whole pixels; the picture is `stretched` to them; otherwise the last pixels reach beyond the border.
export function shrink(picture, factor, stretched) {
  const [width, height] = [Math.round(picture.width * factor), Math.round(picture.height * factor)];
  const [x, y] = stretched ? [picture.width / width, picture.height / height] : [1 / factor, 1 / factor];
  const across = weighed(picture, width, false, areaWeights(picture.width, width, x));
  return weighed(across, height, true, areaWeights(picture.height, height, y));
}

// For each new pixel: the index of the first old pixel it depends on, and the weights from there on.
function lanczosWeights(from, to) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 3 * stretch + 0.5));
    const end = Math.min(from, Math.trunc(centre + 3 * stretch + 0.5));
    const weights = Array.from({ length: end - first }, (_, k) => {
      const x = (k + first - centre + 0.5) / stretch;
      return Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
    });
    return normalised(first, weights);
  });
}

function areaWeights(from, to, scale) {
  return Array.from({ length: to }, (_, i) => {
    const first = Math.floor(i * scale);
    const end = Math.min(from, Math.ceil((i + 1) * scale - 1e-9));
    const weights = Array.from({ length: end - first }, (_, k) => {
      return Math.min(first + k + 1, (i + 1) * scale) - Math.max(first + k, i * scale);
    });
    return normalised(first, weights);
  });
}

function normalised(first, weights) {
  const sum = weights.reduce((a, b) => a + b, 0);
  return { first, weights: Float64Array.from(weights, (w) => w / sum) };
}

function weighed({ width, height, data }, size, down, places) {
  const lines = down ? width : height;
  const [step, jump] = down ? [3 * width, 3] : [3, 3 * width]; // along a line, from line to line
  const [outStep, outJump] = down ? [3 * width, 3] : [3, 3 * size];
  const out = new Uint8ClampedArray(3 * lines * size);
  places.forEach(({ first, weights }, i) => {
    for (let line = 0; line < lines; line++) {
      let [r, g, b] = [0, 0, 0];
      for (let k = 0, at = line * jump + first * step; k < weights.length; k++, at += step) {
        r += weights[k] * data[at];
        g += weights[k] * data[at + 1];
        b += weights[k] * data[at + 2];
      }
      const to = line * outJump + i * outStep;
      out[to] = r;
      out[to + 1] = g;
      out[to + 2] = b;
    }
  });
  return down ? { width, height: size, data: out } : { width: size, height, data: out };
}

// The similarity transform [[a, -b, x], [b, a, y]] that best maps points to other points (Umeyama 1991).
function similarity(from, to) {
  const mean = (points) => [0, 1].map((axis) => points.reduce((sum, p) => sum + p[axis], 0) / points.length);
  const [[fx, fy], [tx, ty]] = [mean(from), mean(to)];
  let [dot, cross, square] = [0, 0, 0];
  from.forEach(([x, y], i) => {
    const [u, v] = [to[i][0] - tx, to[i][1] - ty];
    dot += (x - fx) * u + (y - fy) * v;
    cross += (x - fx) * v - (y - fy) * u;
    square += (x - fx) ** 2 + (y - fy) ** 2;
  });
  const [a, b] = [dot / square, cross / square];
  return { a, b, x: tx - a * fx + b * fy, y: ty - b * fx - a * fy };
}

// The transform from positions in the photo to positions in its canonical crop of `size` pixels.
function toCrop(points, size, canonical) {
  return similarity(points, canonical.map((place) => place.map((fraction) => fraction * size)));
}

// The same between pixel indices: the centre of a pixel lies half a pixel from its edge.
function centred({ a, b, x, y }) {
  return { a, b, x: x + (a - b) / 2 - 0.5, y: y + (a + b) / 2 - 0.5 };
}

// The canonical crop of a photo with five points. Outside the photo its border is repeated.
export function align(photo, points, size, canonical) {
  const move = toCrop(points, size, canonical);
  const scale = Math.hypot(move.a, move.b);
  if (scale < 0.5) {
    // A bilinear sample reads four pixels only, so a much larger face is averaged first.
    photo = shrink(photo, 2 * scale, false);
    move.a /= 2 * scale;
    move.b /= 2 * scale;
  }
  const { a, b, x, y } = centred(move);
  const square = a * a + b * b;
  const data = new Uint8ClampedArray(3 * size * size);
  const rgb = [0, 0, 0];
  for (let row = 0, to = 0; row < size; row++) {
    for (let column = 0; column < size; column++, to += 3) {
      const [u, v] = [column - x, row - y];
      sample(photo, (a * u + b * v) / square, (a * v - b * u) / square, rgb);
      data.set(rgb, to);
    }
  }
  return { width: size, height: size, data };
}

// The photo with a crop pasted over the face at these points, faded out towards the crop's border and corners.
export function paste(crop, photo, points, canonical, feather = 0.12) {
  const size = crop.width;
  const { a, b, x, y } = centred(toCrop(points, size, canonical));
  const share = fading(size, feather);
  const square = a * a + b * b;
  const corners = [[-1, -1], [-1, size], [size, -1], [size, size]].map(([u, v]) => {
    return [(a * (u - x) + b * (v - y)) / square, (a * (v - y) - b * (u - x)) / square];
  });
  const span = (axis, most) => {
    const places = corners.map((corner) => corner[axis]);
    return [Math.max(0, Math.floor(Math.min(...places))), Math.min(most - 1, Math.ceil(Math.max(...places)))];
  };
  const [[left, right], [top, bottom]] = [span(0, photo.width), span(1, photo.height)];
  const data = photo.data.slice();
  const rgb = [0, 0, 0];
  for (let row = top; row <= bottom; row++) {
    for (let column = left; column <= right; column++) {
      const [u, v] = [a * column - b * row + x, b * column + a * row + y];
      const weight = soft(share, size, u, v);
      if (weight === 0) continue;
      sample(crop, u, v, rgb);
      const to = 3 * (row * photo.width + column);
      for (let c = 0; c < 3; c++) data[to + c] += weight * (rgb[c] - data[to + c]);
    }
  }
  return { width: photo.width, height: photo.height, data };
}

function fading(size, feather) {
  const away = Float64Array.from({ length: size }, (_, i) => Math.abs(((i + 0.5) / size) * 2 - 1));
  return Float32Array.from({ length: size * size }, (_, i) => {
    const [u, v] = [away[i % size], away[Math.floor(i / size)]];
    const reach = 1 - Math.max(Math.hypot(u, v) / 1.12, u, v);
    const m = Math.min(1, Math.max(0, reach / (2 * feather)));
    return m * m * (3 - 2 * m); // smooth where the fade begins and ends
  });
}

// Bilinear, the border repeated outside. The caller's array rounds the result.
function sample({ width, height, data }, x, y, rgb) {
  x = Math.min(width - 1, Math.max(0, x));
  y = Math.min(height - 1, Math.max(0, y));
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [u, v] = [x - left, y - top];
  const right = left + 1 < width ? 3 : 0;
  const below = top + 1 < height ? 3 * width : 0;
  const at = 3 * (top * width + left);
  for (let c = 0; c < 3; c++) {
    const i = at + c;
    const upper = data[i] + u * (data[i + right] - data[i]);
    rgb[c] = upper + v * (data[i + below] + u * (data[i + below + right] - data[i + below]) - upper);
  }
}

// The fade weight at a position: bilinear, zero outside.
function soft(mask, size, x, y) {
  const [left, top] = [Math.floor(x), Math.floor(y)];
  const [u, v] = [x - left, y - top];
  const at = (i, j) => (i >= 0 && j >= 0 && i < size && j < size ? mask[j * size + i] : 0);
  const upper = (1 - u) * at(left, top) + u * at(left + 1, top);
  return (1 - v) * upper + v * ((1 - u) * at(left, top + 1) + u * at(left + 1, top + 1));
}
