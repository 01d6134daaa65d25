/** The OpenAPI description as a page, without a script of others. */

import { $, h } from "./dom.js";

const ORDER = ["videos", "questions", "server"];
let schemas = {};

async function start() {
  const response = await fetch("openapi.json");
  const content = await response.json();
  if (!response.ok) {
    $("#description").textContent = `${content.error} Log in on the library's page first.`;
    return;
  }
  schemas = content.components.schemas;
  $("#description").textContent = content.info.description.replaceAll("`", "");
  const routes = Object.entries(content.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => ({ path, method, ...route })));
  for (const tag of ORDER) {
    $("#routes").append(
      h("section", {}, h("h2", {}, tag), ...routes.filter((r) => r.tags?.[0] === tag).map(card)),
    );
  }
}

function card(route) {
  const body = route.requestBody?.content;
  const [type] = Object.keys(body ?? {});
  const schema = type && resolve(body[type].schema);
  const [, summary, rest] = /^(.*?\.)(?:\s+(.*))?$/s.exec(route.description ?? "") ?? [];
  return h(
    "details.route",
    {},
    h(
      "summary",
      {},
      h(`span.method.${route.method}`, {}, route.method.toUpperCase()),
      h("code", {}, route.path),
      h("span.what", {}, summary),
    ),
    h(
      "div.detail",
      {},
      ...(rest ? [h("p", {}, rest)] : []),
      ...section("Parameters", (route.parameters ?? []).map((p) => row(p.name, p.schema, p.description))),
      ...section(`Body, ${type}`, fields(schema)),
      ...section("Answers", Object.entries(route.responses).map(([status, r]) => answer(status, r))),
      h("h3", {}, "Example"),
      h("pre", {}, example(route, type, schema)),
    ),
  );
}

const section = (title, rows) =>
  rows.length ? [h("h3", {}, title), h("table", {}, h("tbody", {}, ...rows))] : [];

const row = (name, schema, description) =>
  h(
    "tr",
    {},
    h("td", {}, h("code", {}, name)),
    h("td", {}, typeOf(schema)),
    h("td", {}, description ?? schema.description ?? ""),
  );

const fields = (schema) =>
  Object.entries(schema?.properties ?? {}).map(([name, value]) => row(name, value));

function answer(status, response) {
  const content = Object.values(response.content ?? {})[0]?.schema;
  const names = content ? Object.keys(resolve(content)?.properties ?? {}).join(", ") : "";
  return h(
    "tr", {}, h("td", {}, h("code", {}, status)), h("td", {}, response.description),
    h("td", {}, h("code", {}, names)),
  );
}

function resolve(schema) {
  if (!schema) return undefined;
  if (schema.$ref) return schemas[schema.$ref.split("/").at(-1)];
  return schema.type === "array" ? resolve(schema.items) : schema;
}

function typeOf(schema) {
  const found = schema.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema;
  if (found.enum) return found.enum.join(" | ");
  if (found.type === "array") return `${typeOf(found.items)}[]`;
  return found.title && found.properties ? found.title : (found.type ?? "");
}

function example(route, type, schema) {
  const path = location.origin + route.path.replace("{vid}", "ID");
  const needed = (route.parameters ?? []).filter((p) => p.in === "query" && p.required);
  const query = needed.length ? `?${needed.map((p, i) => `${p.name}=${5 * (i + 1)}`).join("&")}` : "";
  if (type === "application/octet-stream") return `curl --data-binary @film.mp4 '${path}?name=film.mp4'`;
  const method = route.method === "delete" ? "-X DELETE " : "";
  if (!schema) return `curl ${method}'${path}${query}'`;
  return `curl --json '${JSON.stringify(sample(schema))}' '${path}'`;
}

function sample(schema) {
  const found = schema.$ref ? resolve(schema) : schema;
  if (found.default !== undefined) return found.default;
  if (found.enum) return found.enum[0];
  if (found.type === "array") return [sample(found.items)];
  if (found.type === "integer") return 1;
  if (found.type === "number") return 1.5;
  if (found.type === "string") return found.pattern ? "ID" : "a dog jumps";
  return Object.fromEntries(
    Object.entries(found.properties ?? {}).map(([name, value]) => [name, sample(value)]),
  );
}

start();
