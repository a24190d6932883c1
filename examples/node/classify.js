// Asks a thriftserve server what image files show.
//
//   node classify.js HOST PORT MODEL IMAGE…   -->   one line for each image: file, label, score
//
// Needs `npm install` and `npm run generate` in this directory first.
"use strict";

const fs = require("fs");
const thrift = require("thrift");
const Predict = require("./gen-nodejs/Predict");
const types = require("./gen-nodejs/thriftserve_types");

const TIMEOUT_MS = 10000;

// An i64 comes as a node-int64 object, for a double holds 53 bits alone; its own toString() makes a double of it.
function exact(int64) {
  return int64.buffer.readBigInt64BE(int64.offset);
}

async function classify(client, model, files) {
  const request = new types.ClassifyRequest({
    model_spec: new types.ModelSpec({ name: model }),
    images: files.map((file) => fs.readFileSync(file)),
    top_k: 1,
    timeout_ms: TIMEOUT_MS,
  });
  const response = await client.classify(request);
  response.results.forEach((result, place) => {
    const best = result.classes[0];
    console.log(`${files[place]} ${best.label} ${best.score.toFixed(3)}`);
  });
  console.log(`version ${exact(response.model_spec.version)}`);
}

async function main([host, port, model, ...files]) {
  const connection = thrift.createConnection(host, Number(port), {
    transport: thrift.TFramedTransport,
    protocol: thrift.TBinaryProtocol,
    connect_timeout: TIMEOUT_MS,
  });
  const failed = new Promise((_, reject) => connection.on("error", reject));
  const client = thrift.createClient(Predict, connection);
  try {
    await Promise.race([classify(client, model, files), failed]);
  } catch (error) {
    // PredictError: error.code is one of types.ErrorCode, error.retryable says whether to try again.
    console.error(error instanceof types.PredictError ? `code ${error.code}: ${error.message}` : error.message);
    process.exitCode = 1;
  } finally {
    connection.end();
  }
}

main(process.argv.slice(2));
