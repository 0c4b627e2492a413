require("elastic-apm-node").start({
  serverUrl: "http://127.0.0.1:9",
  serviceName: "middle",
  logLevel: "off",
  cloudProvider: "none",
  centralConfig: false,
  metricsInterval: "0s",
});
