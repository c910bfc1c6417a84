// A backend in Node.js, or as many as cluster's own balancing serves; each answers with its port.
//
//     node node_server.js PORT           one process
//     node node_server.js PORT 8001 ...  a cluster on PORT, whose workers answer with these numbers
//
// Prints a line when all listen and ends when its standard input does.

const cluster = require("cluster");
const http = require("http");

const [port, ...names] = process.argv.slice(2);

function serve(name, ready) {
    http.createServer((_, response) => response.end(name)).listen({ port, backlog: 4096 }, ready);
}

if (cluster.isWorker) {
    serve(process.env.NAME);
} else {
    process.stdin.on("end", () => process.exit()).resume();
    let missing = names.length;
    cluster.on("listening", () => --missing || console.log("listening"));
    names.forEach((name) => cluster.fork({ NAME: name }));
    if (!names.length) serve(port, () => console.log("listening"));
}
