// Drives the three client certificate calls of the real @vercel/sdk against egret, and its errors.
//
//   EGRET_URL=http://127.0.0.1:9090 EGRET_TOKEN=… node vercel.mjs FOLDER
//
// EGRET_TOKEN reaches every project. EGRET_PROJECT (default: default) is a project without certificates.
// FOLDER holds a.crt + a.key and b.crt + b.key, two client pairs, and ca.crt, which issued both.
//
// Prints one JSON line per step: {"step", "ok", …}. Exits 0 only if every step did what it should,
// 1 if one did not, 2 if it was called wrongly.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { isDeepStrictEqual } from "node:util";

import { Vercel } from "@vercel/sdk";
import { SDKError } from "@vercel/sdk/models/sdkerror.js";

const { EGRET_URL: serverURL, EGRET_TOKEN: bearerToken, EGRET_PROJECT: idOrName = "default" } = process.env;
const folder = process.argv[2];
if (!serverURL || !bearerToken || !folder) {
  console.error("usage: EGRET_URL=… EGRET_TOKEN=… node vercel.mjs FOLDER");
  process.exit(2);
}

const file = (name) => readFileSync(join(folder, name), "utf8");
const ca = file("ca.crt");
const a = { cert: file("a.crt"), key: file("a.key"), ca };
const b = { cert: file("b.crt"), key: file("b.key"), ca };
const origin = "https://sdk.egret.test";

const { projects } = new Vercel({ serverURL, bearerToken });
const stranger = new Vercel({ serverURL, bearerToken: "not-a-token-of-this-egret" }).projects;
const nobody = new Vercel({ serverURL }).projects;

let surprises = 0;

// Runs a step; `expected(result)` says what is wrong with it, or nothing.
async function step(name, call, expected) {
  let line;
  let result;
  try {
    result = await call();
    const wrong = expected(result);
    line = { step: name, ok: !wrong, result, ...(wrong && { wrong }) };
  } catch (error) {
    line = { step: name, ok: false, wrong: `threw ${error?.name}: ${String(error?.message).slice(0, 300)}` };
  }
  if (!line.ok) surprises += 1;
  console.log(JSON.stringify(line));
  return result;
}

// Runs a step that the server must refuse with this status and code, without repeating what it was sent.
async function refused(name, call, status, code, mentions = "") {
  let line;
  try {
    const result = await call();
    line = { step: name, ok: false, wrong: `succeeded with ${JSON.stringify(result)}` };
  } catch (error) {
    if (!(error instanceof SDKError)) {
      line = { step: name, ok: false, wrong: `threw ${error?.name}: ${String(error?.message).slice(0, 300)}` };
    } else {
      const wrong = refusalFault(error, status, code, mentions);
      line = { step: name, ok: !wrong, status: error.statusCode, body: error.body, ...(wrong && { wrong }) };
    }
  }
  if (!line.ok) surprises += 1;
  console.log(JSON.stringify(line));
}

function refusalFault(error, status, code, mentions) {
  if (error.statusCode !== status) return `status ${error.statusCode}, not ${status}`;
  if (!error.contentType.startsWith("application/json")) return `content type ${error.contentType}`;
  let body;
  try {
    body = JSON.parse(error.body);
  } catch {
    return "the body is not JSON";
  }
  if (body?.error?.code !== code) return `code ${body?.error?.code}, not ${code}`;
  const message = body.error.message;
  if (typeof message !== "string" || message === "") return "no message";
  if (!message.includes(mentions)) return `the message does not mention ${mentions}`;
  const sent = [a, b].flatMap(({ cert, key }) => [cert, key, ca]).flatMap((pem) => pem.split("\n"));
  // The SDK puts the body into its message, and that goes into logs.
  const echoed = sent.some((text) => text.length > 16 && !text.startsWith("-----") && error.message.includes(text));
  if (echoed || /[A-Za-z0-9+/]{48}/.test(message)) return "the error repeats what was sent";
  return "";
}

const same = (wanted) => (got) =>
  isDeepStrictEqual(got, wanted) ? "" : `not ${JSON.stringify(wanted)}`;
const uploaded = (updated, at) => (got) => {
  if (got.updated !== updated || got.origin !== at) return `not updated ${updated} at ${at}`;
  return /^cert_[0-9a-f]{32}$/.test(got.certId) ? "" : "not a certificate id";
};

const upload = (requestBody, project = idOrName, sdk = projects) =>
  sdk.uploadProjectClientCert({ idOrName: project, requestBody });
const list = (project = idOrName, sdk = projects) => sdk.getProjectClientCerts({ idOrName: project });
const remove = (certId, project = idOrName, sdk = projects) =>
  sdk.deleteProjectClientCert({ idOrName: project, certId });

await step("an empty project lists nothing", () => list(), same({ clientCerts: [] }));
const first = await step("a first upload", () => upload(a), uploaded(false, "*"));
await step("the same upload changes nothing", () => upload(a), (got) => same(first?.certId)(got.certId));
const second = await step("a second upload replaces it", () => upload(b), (got) =>
  uploaded(true, "*")(got) || (got.certId === first?.certId ? "the id is the old one" : ""));
await refused("the replaced id is gone", () => remove(first?.certId ?? "none"), 404, "not_found", "certificate");
const bound = await step("an upload for one origin", () => upload({ ...a, origin: "https://SDK.egret.test:443/" }),
  uploaded(false, origin));
await step("the list has both, the project-wide one first", () => list(),
  same({ clientCerts: [{ origin: "*", id: second?.certId }, { origin, id: bound?.certId }] }));
await step("a team is ignored where the project has none",
  () => projects.getProjectClientCerts({ idOrName, teamId: "team_x", slug: "x" }), (got) =>
    got.clientCerts.length === 2 ? "" : "not two certificates");

await refused("no token", () => list(idOrName, nobody), 401, "unauthorized");
await refused("an unknown token", () => list(idOrName, stranger), 401, "unauthorized");
await refused("an unknown token on upload", () => upload(a, idOrName, stranger), 401, "unauthorized");
await refused("an unknown project", () => list("prj_unknown"), 404, "not_found", "project");
await refused("a path in place of a project", () => list("../../x"), 404, "not_found", "project");
await refused("an unknown certificate", () => remove("cert_unknown"), 404, "not_found", "certificate");
await refused("a path in place of a certificate", () => remove("../x"), 404, "not_found", "certificate");
await refused("no body", () => projects.uploadProjectClientCert({ idOrName }), 400, "bad_request");
await refused("a key that is none", () => upload({ ...a, key: "not a key" }), 400, "bad_request", "key");
await refused("a certificate in place of the key", () => upload({ ...a, key: a.cert }), 400, "bad_request", "key");
await refused("the key of another certificate", () => upload({ ...a, key: b.key }), 400, "bad_request", "key");
await refused("a key in place of the certificate", () => upload({ ...a, cert: a.key }), 400, "bad_request", "cert");
await refused("an origin that is plain http", () => upload({ ...a, origin: "http://sdk.egret.test" }), 400,
  "bad_request", "origin");
await refused("a certificate that is too large", () => upload({ ...a, cert: a.cert + "\n".repeat(65536) }), 413,
  "payload_too_large", "cert");

await step("a refusal changed nothing", () => list(),
  same({ clientCerts: [{ origin: "*", id: second?.certId }, { origin, id: bound?.certId }] }));
await step("a delete", () => remove(second?.certId), same({ origin: "*", certId: second?.certId }));
await refused("a second delete", () => remove(second?.certId), 404, "not_found", "certificate");
await step("a delete of the other", () => remove(bound?.certId), same({ origin, certId: bound?.certId }));
await step("the project is empty again", () => list(), same({ clientCerts: [] }));

process.exitCode = surprises === 0 ? 0 : 1;
