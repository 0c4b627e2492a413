// A real OIDC provider (npm's oidc-provider) with the clients of the tests. Its only argument is the folder of its
// modules. It prints its issuer as the first line, and accepts any name at its own login page.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.argv[2]}/`);
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

const DEVICE = "urn:ietf:params:oauth:grant-type:device_code";
const client = (client_id, more = {}) => ({
  client_id,
  grant_types: [DEVICE, "refresh_token"],
  response_types: [],
  redirect_uris: [],
  token_endpoint_auth_method: "none",
  application_type: "native",
  ...more,
});

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      client("devroute"),
      client("with-secret", { client_secret: "published", token_endpoint_auth_method: "client_secret_post" }),
      client("no-device", { grant_types: ["authorization_code"], response_types: ["code"], redirect_uris: ["com.example:/"] }),
    ],
    cookies: { keys: ["tests"] },
    // ID tokens have the claims of the scopes, as those of Keycloak, Okta, Entra, Google and Dex do.
    conformIdTokenClaims: false,
    claims: { openid: ["sub"], email: ["email", "email_verified"] },
    findAccount: async (_, id) => ({
      accountId: id,
      claims: async () => ({ sub: id, email: `${id}@corp.example`, email_verified: true }),
    }),
    features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true }, revocation: { enabled: true } },
    issueRefreshToken: async (_, client, code) => code.scopes.has("offline_access"),
    rotateRefreshToken: true,
    // Short, so that a test sees renewals.
    ttl: { IdToken: Number(process.env.ID_TOKEN_SECONDS ?? 600), DeviceCode: Number(process.env.CODE_SECONDS ?? 600) },
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
