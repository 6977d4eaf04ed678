// What stands around the SDK in cloudflare.mjs: a proxy between it and egret that reads every answer and can lose one,
// requests to the origin through egret's listeners, and the lines that say what was found.

import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";

import { APIError } from "cloudflare";

// A certificate with its key, as files of the folder; what it should be described as is asked of openssl.
export function pair(folder, name) {
  const path = join(folder, `${name}.crt`);
  const x509 = (...options) => execFileSync("openssl", ["x509", "-noout", "-in", path, ...options], { encoding: "utf8" })
    .trim().replace(/^[a-zA-Z]+=/, "");
  return {
    certificate: readFileSync(path, "utf8"),
    private_key: readFileSync(join(folder, `${name}.key`), "utf8"),
    subject: `CN=${name}`,
    described: () => ({
      serial_number: BigInt(`0x${x509("-serial")}`).toString(),
      issuer: x509("-issuer", "-nameopt", "RFC2253"),
      expires_on: new Date(x509("-enddate")).getTime(),
    }),
  };
}

// A certificate's object as it has to be: an id of 32 hex digits, the PEM as it was sent, and what openssl reads in it.
export function object(wanted, { pem = "certificate", ...more } = {}) {
  const { serial_number, issuer, expires_on } = wanted.described();
  return (got) => {
    if (!/^[0-9a-f]{32}$/.test(got.id)) return "not an id of 32 hex digits";
    if (got[pem] !== wanted.certificate) return "not the PEM that was sent";
    if (got.serial_number !== serial_number) return `serial number ${got.serial_number}, not ${serial_number}`;
    if (got.issuer !== issuer) return `issuer ${got.issuer}, not ${issuer}`;
    if (Date.parse(got.expires_on) !== expires_on) return `expires ${got.expires_on}`;
    if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/.test(got.uploaded_on)) return `uploaded ${got.uploaded_on}`;
    if (Math.abs(Date.now() - Date.parse(got.uploaded_on)) > 60_000) return `uploaded ${got.uploaded_on}`;
    const wrong = Object.entries({ signature: "ECDSAWithSHA256", ...more }).find(([key, value]) => got[key] !== value);
    return wrong ? `${wrong[0]} is ${got[wrong[0]]}, not ${wrong[1]}` : "";
  };
}

// Stands between the SDK and egret. Sees to it that whatever egret answers has the envelope, and no key.
export class Witness {
  requests = []; // {method, path, retry, status, body}
  faults = [];
  #lose = []; // how the answers to the next POSTs are lost: "502" or "reset"
  #server;

  static async start(egret) {
    const witness = new Witness();
    witness.#server = http.createServer((request, response) => witness.#pass(new URL(egret), request, response));
    witness.#server.keepAliveTimeout = 0;
    witness.#server.listen(0, "127.0.0.1");
    await once(witness.#server, "listening");
    witness.url = `http://127.0.0.1:${witness.#server.address().port}`;
    return witness;
  }

  // Loses the answers to the next POSTs, after egret has given them.
  lose(...how) {
    this.#lose.push(...how);
  }

  end() {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #pass(egret, request, response) {
    const sent = Buffer.concat(await request.toArray());
    const upstream = http.request({
      host: egret.hostname, port: egret.port, method: request.method, path: request.url, agent: false,
      headers: { ...request.headers, host: egret.host, connection: "close" },
    });
    upstream.on("error", () => response.destroy());
    upstream.end(sent);
    const [answer] = await once(upstream, "response");
    const body = Buffer.concat(await answer.toArray());
    this.#judge(request, answer, body.toString());
    const how = request.method === "POST" ? this.#lose.shift() : undefined;
    if (how === "reset") {
      request.socket.destroy();
    } else if (how === "502") {
      response.writeHead(502, { "content-type": "text/html" }).end("<h1>bad gateway</h1>");
    } else {
      response.writeHead(answer.statusCode, { "content-type": answer.headers["content-type"] }).end(body);
    }
  }

  #judge(request, answer, text) {
    const status = answer.statusCode;
    this.requests.push({
      method: request.method, path: request.url, status, body: text,
      retry: Number(request.headers["x-stainless-retry-count"]), agent: request.headers["user-agent"],
    });
    const wrong = envelopeFault(status, answer.headers["content-type"], text);
    if (wrong) this.faults.push(`${request.method} ${request.url}: ${wrong}: ${text.slice(0, 200)}`);
  }
}

export function envelopeFault(status, type, text) {
  if (!/^application\/json\b/.test(type ?? "")) return `content type ${type}`;
  if (/-----BEGIN [A-Z ]*PRIVATE KEY|"private_key"\s*:/.test(text)) return "a private key";
  const { success, errors, messages, result } = JSON.parse(text);
  if (success !== (status === 200)) return `status ${status} with success ${success}`;
  if (!Array.isArray(errors) || !Array.isArray(messages) || result === undefined) return "not the envelope";
  if (success) return errors.length === 0 ? "" : "success with errors";
  const complete = errors.every(({ code, message }) => Number.isInteger(code) && code >= 1000 && message);
  return complete && errors.length > 0 && result === null ? "" : "an error without code and message";
}

// Prints what each check found, and counts what went wrong.
export class Report {
  wrong = 0;

  constructor(witness) {
    this.witness = witness;
  }

  say(what, wrong, more) {
    if (wrong) this.wrong += 1;
    console.log(JSON.stringify({ ok: !wrong, what, ...(wrong && { wrong, ...more }) }));
  }

  // `wrong(result)` says what is wrong with what the call gave, or nothing. Gives the result.
  async check(what, call, wrong = () => "") {
    let result;
    try {
      result = await call();
    } catch (error) {
      this.say(what, `threw ${error?.name}: ${String(error?.stack).slice(0, 500)}`);
      return {};
    }
    this.say(what, wrong(result), { result });
    return result ?? {};
  }

  // The call must fail with this exception of the SDK, this code, and a message that has these words; after one request.
  async refused(what, call, type, code, { says = "", pointer } = {}) {
    const before = this.witness.requests.length;
    try {
      const result = await call();
      this.say(what, `succeeded with ${JSON.stringify(result)}`);
    } catch (error) {
      const requests = this.witness.requests.length - before;
      this.say(what, refusalFault(error, requests, type, code, says, pointer), {
        status: error?.status, errors: error?.errors, message: String(error?.message).slice(0, 300),
      });
    }
  }
}

function refusalFault(error, requests, type, code, says, pointer) {
  if (error?.constructor !== type) return `${error?.constructor?.name}, not ${type.name}`;
  if (!(error instanceof APIError)) return "not an error of the SDK";
  if (requests !== 1) return `${requests} requests`;
  const first = error.errors[0];
  if (first?.code !== code) return `code ${first?.code}, not ${code}`;
  if (!first.message.includes(says)) return `the message does not say ${says}`;
  if (pointer && first.source?.pointer !== pointer) return `not at ${pointer}`;
  // The SDK puts the whole body into its message, and that goes into logs.
  return /[A-Za-z0-9+/]{48}/.test(error.message) ? "the error repeats what was sent" : "";
}

// One request to `host` through a forward listener of egret; what the origin saw, or what egret answered.
export async function ask(proxy, host, port) {
  const authority = `${host}:${port}`;
  const [address, door] = proxy.split(":");
  const request = http.request({
    host: address, port: door, path: `https://${authority}/`, headers: { host: authority }, agent: false,
  });
  request.end();
  const [answer] = await once(request, "response");
  const text = Buffer.concat(await answer.toArray()).toString();
  const body = JSON.parse(text);
  return { status: answer.statusCode, subject: body.subject, code: body.code, text };
}
