// A real OpenID provider on loopback, for tests/it/clients/openid.rs. It prints its name and ends with its standard
// input.
//
// Every client gets tokens for itself (client_credentials). The resource that it asks for says which:
// https://mail.example.org/FORMAT/ALGORITHM/SECONDS/AUDIENCE, where FORMAT is `jwt` or `opaque`.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import Provider from "oidc-provider";

const kinds = {
  RS256: ["rsa", { modulusLength: 2048 }],
  PS256: ["rsa", { modulusLength: 2048 }],
  ES256: ["ec", { namedCurve: "P-256" }],
  EdDSA: ["ed25519", {}],
};
const keys = Object.entries(kinds).map(([alg, [type, options]]) => {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: "jwk" }), alg, use: "sig", kid: randomUUID() };
});

const client = (client_id, more = {}) => ({
  client_id,
  client_secret: `the secret of ${client_id}`,
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  ...more,
});

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [client("alice"), client("mallory"), client("gatepost")],
    clientBasedCORS: () => false,
    cookies: { keys: [randomUUID()] },
    jwks: { keys },
    extraTokenClaims: (ctx, token) => ({ email: `${token.clientId}@example.org`, email_verified: true }),
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: {
        enabled: true,
        allowedPolicy: (ctx, asking) => asking.clientId === "gatepost",
      },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => {
          const [format, alg, seconds, audience] = new URL(resource).pathname.split("/").slice(1);
          return {
            scope: "smtp",
            audience,
            accessTokenFormat: format,
            accessTokenTTL: Number(seconds),
            jwt: { sign: { alg } },
          };
        },
      },
    },
    scopes: ["smtp"],
  });
  provider.on("server_error", (ctx, error) => console.error(error));
  server.on("request", provider.callback());
  console.log(issuer);
});

process.stdin.resume();
process.stdin.on("end", () => process.exit());
