// Node's own clients against a lab backend: `node.js URL`.

const assert = require("node:assert");
const http = require("node:http");
const http2 = require("node:http2");

const base = new URL(process.argv[2]);

function ask(agent, path, options = {}, body = undefined) {
  return new Promise((resolve, reject) => {
    const request = http.request(new URL(path, base), { agent, ...options }, (response) => {
      const pieces = [];
      response.on("data", (piece) => pieces.push(piece));
      response.on("error", reject);
      response.on("end", () =>
        resolve({
          status: response.statusCode,
          body: Buffer.concat(pieces),
          port: request.socket.localPort,
        }),
      );
    });
    request.on("error", reject);
    request.end(body);
  });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// The agent that most programs use: a pool of kept connections.
async function keepAlive() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
  const answers = await Promise.all(Array.from({ length: 400 }, (_, n) => ask(agent, `/x/${n}`)));
  assert(answers.every((answer) => answer.status === 200));
  const ports = new Set(answers.map((answer) => answer.port));
  assert.equal(ports.size, 4, "connections are kept");
  const upload = Buffer.alloc(300_000, "x");
  for (let turn = 0; turn < 10; turn++) {
    const headers = turn % 2 ? { "Transfer-Encoding": "chunked" } : {};
    const answer = await ask(agent, "/hash", { method: "POST", headers }, upload);
    assert.match(answer.body.toString(), / 300000\n$/);
  }
  agent.destroy();
}

// What a browser does: six connections, bursts of resources with a browser's headers, pauses for
// reading, an aborted download now and then.
async function browse() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 6, scheduling: "lifo" });
  const headers = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-GB,en;q=0.9",
    "Cookie": "session=0123456789abcdef; theme=dark",
    "Sec-Fetch-Mode": "navigate",
    "Upgrade-Insecure-Requests": "1",
    "Connection": "keep-alive",
  };
  for (let page = 0; page < 5; page++) {
    assert.equal((await ask(agent, "/", { headers })).status, 200);
    const paths = ["/bytes/70000", "/chunked/50000", "/status/304", "/status/404", "/status/204"];
    const wanted = Array.from({ length: 30 }, (_, n) => paths[n % paths.length]);
    const answers = await Promise.all(wanted.map((path) => ask(agent, path, { headers })));
    answers.forEach((answer, n) => {
      const path = wanted[n].split("/");
      const status = path[1] === "status" ? Number(path[2]) : 200;
      assert.equal(answer.status, status, wanted[n]);
      if (status === 200) assert.equal(answer.body.length, Number(path[2]), wanted[n]);
    });
    await new Promise((resolve, reject) => {
      const request = http.get(new URL("/bytes/50000000", base), { agent, headers }, (response) => {
        response.once("data", () => response.destroy());
        response.once("close", resolve);
      });
      request.on("error", (error) => (error.code === "ECONNRESET" ? resolve() : reject(error)));
    });
    await pause(300);
  }
  agent.destroy();
}

// HTTP/2 with prior knowledge.
async function multiplex() {
  const session = http2.connect(base.origin);
  const fetch = (path, body) =>
    new Promise((resolve, reject) => {
      const stream = session.request({ ":path": path, ":method": body ? "POST" : "GET" });
      const pieces = [];
      let status;
      stream.on("response", (headers) => (status = headers[":status"]));
      stream.on("data", (piece) => pieces.push(piece));
      stream.on("end", () => resolve({ status, body: Buffer.concat(pieces) }));
      stream.on("error", reject);
      stream.end(body);
    });
  const sizes = Array.from({ length: 100 }, (_, n) => n * 3000);
  const answers = await Promise.all(sizes.map((size) => fetch(`/bytes/${size}`)));
  answers.forEach((answer, n) => {
    assert.equal(answer.status, 200);
    assert.equal(answer.body.length, sizes[n]);
  });
  const hash = await fetch("/hash", Buffer.alloc(1_000_000, "y"));
  assert.match(hash.body.toString(), / 1000000\n$/);
  await new Promise((resolve) => session.close(resolve));
}

keepAlive()
  .then(browse)
  .then(multiplex)
  .then(() => console.log("all good"))
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  });
