// Writes PNG files that are marked as AI-generated: in PNG text, and in XMP by IPTC's digital source type
// (https://cv.iptc.org/newscodes/digitalsourcetype/).

const SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";
const COMMENT = "AI-generated: made by a face-swap network";
const XMP = `<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="${SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>`;
const HEADER_BYTES = 33; // the signature and the chunk IHDR, which comes first

// The content of a canvas as a PNG file (Blob), marked as AI-generated.
export async function labelled(canvas) {
  const plain = await new Promise((done) => canvas.toBlob(done, "image/png"));
  if (!plain) throw new Error("This browser cannot write the picture as PNG.");
  const labels = [
    chunk("tEXt", "Software\0SwapDistill"),
    chunk("tEXt", `Comment\0${COMMENT}`),
    chunk("iTXt", `XML:com.adobe.xmp\0\0\0\0\0${XMP}`),
  ];
  return new Blob([plain.slice(0, HEADER_BYTES), ...labels, plain.slice(HEADER_BYTES)], { type: "image/png" });
}

// A chunk: length, type, content, checksum of type and content.
function chunk(type, text) {
  const body = new TextEncoder().encode(type + text);
  const bytes = new Uint8Array(body.length + 8);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length - 4);
  bytes.set(body, 4);
  view.setUint32(body.length + 4, checksum(body));
  return bytes;
}

// CRC-32 of the PNG specification, annex D.
function checksum(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return (crc ^ 0xffffffff) >>> 0;
}
