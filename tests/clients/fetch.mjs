// Node's HTTP clients as their users write them: no CA and no certificate in the code, and of the proxy only what the
// client's own documentation asks for.
//
// usage: fetch.mjs https|https-agent|fetch|undici|axios URL
//
//   https        node:https (node:http for http://) with the global agent
//   https-agent  the same with https-proxy-agent, the agent of most applications
//   fetch        the global fetch
//   undici       the same, with undici's EnvHttpProxyAgent as dispatcher
//   axios        axios with its defaults
//
// Prints the body; exit code 1 for anything but success. 3: this version of Node does not read proxy variables by
// itself, and the request failed for want of a proxy.
import http from 'node:http';
import https from 'node:https';

const [kind, url] = process.argv.slice(2);

function get(options) {
  return new Promise((resolve, reject) => {
    const client = url.startsWith('https:') ? https : http;
    const request = client.get(url, options, async (response) => {
      try {
        const chunks = [];
        for await (const chunk of response) chunks.push(chunk);
        if (response.statusCode !== 200) throw new Error(`status ${response.statusCode}`);
        resolve(Buffer.concat(chunks).toString());
      } catch (error) {
        reject(error);
      }
    });
    request.once('error', reject);
  });
}

async function text(response) {
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.text();
}

const clients = {
  https: () => get({}),
  'https-agent': async () => {
    const { HttpsProxyAgent } = await import('https-proxy-agent');
    return get({ agent: new HttpsProxyAgent(process.env.HTTPS_PROXY) });
  },
  fetch: async () => text(await fetch(url)),
  undici: async () => {
    const { EnvHttpProxyAgent, fetch } = await import('undici');
    return text(await fetch(url, { dispatcher: new EnvHttpProxyAgent() }));
  },
  axios: async () => {
    const { default: axios } = await import('axios');
    return JSON.stringify((await axios.get(url)).data);
  },
};

try {
  console.log(await clients[kind]());
} catch (error) {
  console.error(error);
  const reads = process.allowedNodeEnvironmentFlags.has('--use-env-proxy');
  const code = error.code ?? error.cause?.code;
  process.exitCode = !reads && ['ENOTFOUND', 'EAI_AGAIN'].includes(code) ? 3 : 1;
}
