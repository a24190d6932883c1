// Runs a model that takes and gives FLOAT vectors.
//
//   node predict.js HOST PORT MODEL INPUT OUTPUT NUMBER…   -->   shape and numbers of the output
//
// Needs `npm install` and `npm run generate` in this directory first.
"use strict";

const Int64 = require("node-int64");
const thrift = require("thrift");
const Predict = require("./gen-nodejs/Predict");
const types = require("./gen-nodejs/thriftserve_types");

// FLOAT [n]: the bytes little-endian, as the contract says and as Float32Array has them on x86 and ARM.
function tensorOf(values) {
  return new types.Tensor({
    dtype: types.DataType.FLOAT,
    shape: [new Int64(values.length)],
    content: Buffer.from(Float32Array.from(values).buffer),
  });
}

// Copied first: the answer's bytes may begin at an address that Float32Array refuses.
function valuesOf(tensor) {
  return Array.from(new Float32Array(Uint8Array.from(tensor.content).buffer));
}

async function main([host, port, model, input, output, ...values]) {
  const connection = thrift.createConnection(host, Number(port), {
    transport: thrift.TFramedTransport,
    protocol: thrift.TBinaryProtocol,
  });
  const failed = new Promise((_, reject) => connection.on("error", reject));
  const client = thrift.createClient(Predict, connection);
  const request = new types.PredictRequest({
    model_spec: new types.ModelSpec({ name: model }),
    inputs: { [input]: tensorOf(values.map(Number)) },
    timeout_ms: 10000,
  });
  try {
    const response = await Promise.race([client.predict(request), failed]);
    const tensor = response.outputs[output];
    console.log(`shape ${tensor.shape.join(",")} values ${valuesOf(tensor).join(" ")}`);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  } finally {
    connection.end();
  }
}

main(process.argv.slice(2));
