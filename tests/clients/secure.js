// A backend that speaks HTTP/1.1 and HTTP/2 over TLS: CERTIFICATE KEY PORT.
'use strict';

const fs = require('fs');
const http2 = require('http2');

const [certificate, key, port] = process.argv.slice(2);
const options = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key), allowHTTP1: true };

const server = http2.createSecureServer(options, (request, response) => {
  if (request.url.endsWith('/echo')) {
    request.pipe(response);
    return;
  }
  response.end(`${request.httpVersion} ${request.headers[':scheme'] || ''}`);
});

// A tunnel that echoes, and ends when it has said so much.
server.on('upgrade', (request, socket, head) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
  const answer = (bytes) => socket.end(bytes);
  if (head.length) answer(head);
  else socket.once('data', answer);
});

server.listen(Number(port), '127.0.0.1');
