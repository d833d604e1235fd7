// Starts Swagger UI at /api-docs. A file of its own, because the page allows no inline script.
const version = new URLSearchParams(location.search).get("version") ?? "1";
const address = `/api-docs/openapi.json?version=${encodeURIComponent(version)}`;

document.querySelector("#document").href = address;
window.ui = SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: address,
  layout: "BaseLayout",
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  queryConfigEnabled: false, // nobody may point this page at another document
  tryItOutEnabled: true,
  validatorUrl: null, // asks no other host
});
