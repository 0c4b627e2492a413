const { HttpInstrumentation } = require("@opentelemetry/instrumentation-http");
const { UndiciInstrumentation } = require("@opentelemetry/instrumentation-undici");
const { NodeSDK } = require("@opentelemetry/sdk-node");

const traceExporter = { export: (_, done) => done({ code: 0 }), shutdown: async () => {} };
new NodeSDK({ traceExporter, instrumentations: [new HttpInstrumentation(), new UndiciInstrumentation()] }).start();
