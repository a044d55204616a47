// A client by gRPC-Web, with generated code. What it is answered is told to the test.
import { Code, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { Registry } from "onair/v1/registry_pb.js";

async function call() {
  const client = createClient(Registry, createGrpcWebTransport({ baseUrl: REGISTRY }));
  const { version, features } = await client.getServerInfo({});
  const { instances } = await client.lookup({ service: "web" });
  let streamed = [];
  for await (const { events, snapshotEnd } of client.watch({ selectors: [{ service: "web" }] })) {
    streamed.push(...events.map(({ instance }) => instance.id));
    if (snapshotEnd) break;
  }
  const refusal = await client.lookup({ service: "a/b" }).catch((error) => error);
  return {
    version,
    features,
    found: instances.map(({ id }) => id),
    streamed,
    refused: { code: Code[refusal.code], details: refusal.details.map(({ type }) => type) },
  };
}

call().then((called) => tell({ called }), (error) => tell({ failed: String(error) }));
