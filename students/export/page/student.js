// The student: its two networks, run by onnxruntime-web in WebGPU or WebAssembly.

const RUNTIMES = { webgpu: "./runtime/ort.webgpu.bundle.min.mjs", wasm: "./runtime/ort.wasm.bundle.min.mjs" };

// Whether this browser has a WebGPU adapter; the interface alone is not enough.
export async function hasWebGPU() {
  return Boolean(navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null)));
}

export async function runtime(backend) {
  const ort = await import(RUNTIMES[backend]);
  // Threads need shared memory, which browsers allow only on pages with cross-origin isolation headers.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  return ort;
}

export async function session(ort, { file, bytes }, backend) {
  const answer = await fetch(new URL(file, import.meta.url));
  if (!answer.ok) throw new Error(`${file} cannot be loaded (HTTP ${answer.status}); copy the whole folder again.`);
  const content = new Uint8Array(await answer.arrayBuffer());
  if (content.length !== bytes) {
    throw new Error(`${file} has ${content.length} bytes, about.json says ${bytes}; copy the whole folder again.`);
  }
  return ort.InferenceSession.create(content, { executionProviders: [backend], logSeverityLevel: 3 });
}

export class Student {
  // Load both networks and run them once: this warms them up and compares their numbers with PyTorch's.
  static async open(about, backend) {
    const student = new Student();
    student.ort = await runtime(backend);
    student.backend = backend;
    student.threads = student.ort.env.wasm.numThreads;
    student.size = about.resolution;
    student.encoder = await session(student.ort, about.models.identity_encoder, backend);
    student.generator = await session(student.ort, about.models.generator, backend);
    await student.check(about.check);
    return student;
  }

  // Swap the same pattern as the export did in PyTorch. This also detects faulty GPU drivers.
  async check({ factors, step, values, tolerance }) {
    const pattern = (factor) => {
      return Float32Array.from({ length: 3 * this.size * this.size }, (_, i) => ((i * factor) % 256) / 127.5 - 1);
    };
    const { swap } = await this.swap(pattern(factors.target), await this.embed(pattern(factors.source)));
    const off = values.reduce((most, value, i) => Math.max(most, Math.abs(swap[i * step] - value)), 0);
    if (!(off <= tolerance)) throw new Error(`the swap is off by ${off.toPrecision(2)} from PyTorch's`);
  }

  async close() {
    await this.encoder.release();
    await this.generator.release();
  }

  picture(floats) {
    const expected = 3 * this.size * this.size;
    if (floats.length !== expected) throw new Error(`A crop needs ${expected} numbers, got ${floats.length}.`);
    return new this.ort.Tensor("float32", floats, [1, 3, this.size, this.size]);
  }

  // A source (floats in [-1, 1], channel by channel) to the generator's inputs beside the target.
  async embed(source) {
    const begin = performance.now();
    const inputs = await this.encoder.run({ source: this.picture(source) });
    return { inputs, ms: performance.now() - begin };
  }

  // A target and an embedded source to the swap, the network's floats in [-1, 1].
  async swap(target, embedded) {
    const begin = performance.now();
    const { swap } = await this.generator.run({ target: this.picture(target), ...embedded.inputs });
    return { swap: swap.data, ms: performance.now() - begin };
  }
}
