// Whether the KEDA objects in a rendered YAML file are what KEDA's own schemas say. Needs @kubernetes-models/keda and
// js-yaml from npm, in the folder that NODE_MODULES names.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.NODE_MODULES ?? process.cwd()}/`);
const keda = require("@kubernetes-models/keda/keda.sh/v1alpha1");
const yaml = require("js-yaml");

const metadata = ["natsServerMonitoringEndpoint", "account", "stream", "consumer", "lagThreshold"];
let problems = 0;
for (const object of yaml.loadAll(readFileSync(process.argv[2], "utf8"))) {
  if (!object.apiVersion.startsWith("keda.sh/")) continue;
  const where = `${object.kind} ${object.metadata.name}`;
  try {
    new keda[object.kind](object).validate();
  } catch (error) {
    console.error(`${where}: ${error.message}`);
    problems += 1;
  }
  for (const trigger of object.spec.triggers.filter((trigger) => trigger.type === "nats-jetstream")) {
    for (const name of metadata) {
      if (typeof trigger.metadata[name] !== "string") {
        console.error(`${where}: trigger metadata ${name}: expected a string`);
        problems += 1;
      }
    }
  }
}
process.exit(problems === 0 ? 0 : 1);
