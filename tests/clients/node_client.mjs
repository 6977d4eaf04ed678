// Node's HTTP clients behind one line protocol.
//
// usage: node_client.mjs http|undici
//
// Standard input, one JSON object per line: {url, proxy?, ca?, method?, headers?, body?}.
// Standard output, one line each: {status, headers, body} or {error}.
//   http    node:http and node:https; through a proxy https:// goes by CONNECT and http:// in absolute form,
//           as applications and agents do it by hand; `absolute: true` asks for the absolute form for https:// too
//   undici  fetch with undici's ProxyAgent, which uses CONNECT for both
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createInterface } from 'node:readline';
import tls from 'node:tls';
import { Agent, ProxyAgent, fetch } from 'undici';

const read = (path) => (path ? readFileSync(path, 'utf8') : undefined);

function connect(proxy, authority) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: authority, headers: { host: authority } });
    request.once('connect', (response, socket) => {
      if (response.statusCode === 200) resolve(socket);
      else reject(new Error(`CONNECT answered ${response.statusCode} ${response.headers['proxy-status'] ?? ''}`));
    });
    request.once('error', reject).end();
  });
}

function exchange(request, body) {
  return new Promise((resolve, reject) => {
    request.once('response', async (response) => {
      try {
        const chunks = [];
        for await (const chunk of response) chunks.push(chunk);
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString() });
      } catch (error) {
        reject(error);
      }
    });
    request.once('error', reject).end(body);
  });
}

async function byHttp({ url, proxy, ca, absolute, method = 'GET', headers = {}, body }) {
  const target = new URL(url);
  if (!proxy) return exchange((target.protocol === 'https:' ? https : http).request(target, { method, headers, ca: read(ca) }), body);
  const via = new URL(proxy);
  if (target.protocol === 'http:' || absolute) {
    const options = { host: via.hostname, port: via.port, path: url, method, headers: { host: target.host, ...headers } };
    return exchange(http.request(options), body);
  }
  const socket = await connect(via, `${target.hostname}:${target.port || 443}`);
  const createConnection = () => tls.connect({ socket, servername: target.hostname, ca: read(ca) });
  return exchange(https.request(target, { method, headers, createConnection }), body);
}

const agents = new Map();
function agent(proxy, ca) {
  const key = `${proxy} ${ca}`;
  if (!agents.has(key)) {
    const trust = { ca: read(ca) };
    agents.set(key, proxy ? new ProxyAgent({ uri: proxy, requestTls: trust }) : new Agent({ connect: trust }));
  }
  return agents.get(key);
}

async function byUndici({ url, proxy, ca, method = 'GET', headers = {}, body }) {
  const response = await fetch(url, { dispatcher: agent(proxy, ca), method, headers, body, redirect: 'manual' });
  return { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
}

const client = { http: byHttp, undici: byUndici }[process.argv[2]];
for await (const line of createInterface({ input: process.stdin })) {
  const answer = await client(JSON.parse(line)).catch((error) => ({
    error: [error.message, error.cause?.message].filter(Boolean).join(': '),
  }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
