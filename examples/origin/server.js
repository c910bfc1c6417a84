// One process of the application: `node server.js 8001`. Start it once per port.
'use strict';

const http = require('node:http');

const port = Number(process.argv[2]);
if (!Number.isInteger(port) || port < 1 || port > 65535) {
  console.error('usage: node server.js PORT');
  process.exit(2);
}

const server = http.createServer((request, response) => {
  response.end(`${port}\n`);
});

// No host: all addresses. A process that is bound to 127.0.0.1 alone gets no connection from outside.
server.listen(port, () => console.log(`listening on ${port}`));
