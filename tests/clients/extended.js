// `serve ADDRESS PORT`: WebSockets over HTTP/2 (RFC 8441) by Node's server, frame by frame. Every message is sent
// back, and the text `close CODE REASON` closes with both.
const http2 = require("node:http2");

const TEXT = 1;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

// The first frame of `bytes`, unmasked, and the bytes that it took; null if it is not whole.
function parse(bytes) {
  if (bytes.length < 2) return null;
  let length = bytes[1] & 127;
  let at = 2;
  if (length === 126 || length === 127) {
    const size = length === 126 ? 2 : 8;
    if (bytes.length < at + size) return null;
    length = size === 2 ? bytes.readUInt16BE(at) : Number(bytes.readBigUInt64BE(at));
    at += size;
  }
  const isMasked = (bytes[1] & 128) !== 0;
  if (bytes.length < at + (isMasked ? 4 : 0) + length) return null;
  const mask = isMasked ? bytes.subarray(at, at + 4) : Buffer.alloc(4);
  at += isMasked ? 4 : 0;
  const payload = Buffer.from(bytes.subarray(at, at + length));
  for (let i = 0; i < length; i += 1) payload[i] ^= mask[i % 4];
  return { first: bytes[0], payload, used: at + length };
}

function frame(first, payload) {
  const size = payload.length < 126 ? 0 : payload.length < 65536 ? 2 : 8;
  const head = Buffer.alloc(2 + size);
  head[0] = first;
  head[1] = size === 0 ? payload.length : size === 2 ? 126 : 127;
  if (size === 2) head.writeUInt16BE(payload.length, 2);
  if (size === 8) head.writeBigUInt64BE(BigInt(payload.length), 2);
  return Buffer.concat([head, payload]);
}

function answer(stream, { first, payload }) {
  const opcode = first & 15;
  const order = opcode === TEXT && /^close (\d+) (.*)$/.exec(payload.toString());
  if (order) {
    const code = Buffer.alloc(2);
    code.writeUInt16BE(Number(order[1]));
    stream.hasClosed = true;
    stream.write(frame(128 | CLOSE, Buffer.concat([code, Buffer.from(order[2])])));
  } else if (opcode === PING) {
    stream.write(frame(128 | PONG, payload));
  } else if (opcode !== CLOSE) {
    stream.write(frame(first, payload));
  } else {
    if (!stream.hasClosed) stream.write(frame(first, payload));
    stream.end();
  }
}

const server = http2.createServer({ settings: { enableConnectProtocol: true } });
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  if (headers[":method"] !== "CONNECT" || headers[":protocol"] !== "websocket") {
    stream.respond({ ":status": 400 }, { endStream: true });
    return;
  }
  const offered = headers["sec-websocket-protocol"];
  stream.respond({ ":status": 200, ...(offered && { "sec-websocket-protocol": "chat" }) });
  let pieces = [];
  stream.on("data", (piece) => {
    pieces.push(piece);
    let held = Buffer.concat(pieces);
    for (let next = parse(held); next; next = parse(held)) {
      answer(stream, next);
      held = held.subarray(next.used);
    }
    pieces = [held];
  });
  stream.on("end", () => stream.end());
});
server.listen(Number(process.argv[4]), process.argv[3]);
