// Sends the input to the model and shows its answer. It only ever sets text: an answer never becomes an element.
"use strict";

const form = document.getElementById("ask");
const input = document.getElementById("input");
const token = document.getElementById("token");
const send = document.getElementById("send");

function show(id, text) {
  document.getElementById(id).textContent = text;
}

function quoted(text) {
  return "'" + text.replaceAll("'", "'\\''") + "'";
}

function showCommand() {
  const header = token ? " -H \"Access-Token: $TOKEN\"" : "";
  show("curl", `curl -X POST ${location.origin}${form.dataset.url}${header} -d ${quoted(input.value)}`);
}

function showAnswer(isGood, status, text, seconds, requestId) {
  const shown = document.getElementById("status");
  shown.textContent = status;
  shown.className = isGood ? "state good" : "state bad";
  show("time", seconds === null ? "" : `${(seconds * 1000).toFixed(1)} ms`);
  show("request-id", requestId ? `request ${requestId}` : "");
  show("output", text);
  document.getElementById("result").hidden = false;
}

function pretty(text) {
  try {
    const found = JSON.parse(text);
    const message = found && typeof found === "object" ? found.message : undefined;
    return typeof message === "string" ? message : JSON.stringify(found, null, 2);
  } catch {
    return text; // NaN has no place in strict JSON: shown as it came
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  send.disabled = true;
  const began = performance.now();
  try {
    const headers = { "Content-Type": "application/json" };
    if (token && token.value) {
      headers["Access-Token"] = token.value;
    }
    const answer = await fetch(form.dataset.url, { method: "POST", headers, body: input.value });
    const text = await answer.text();
    const seconds = (performance.now() - began) / 1000;
    const status = `${answer.status} ${answer.statusText}`;
    showAnswer(answer.ok, status, pretty(text), seconds, answer.headers.get("verta-request-id"));
  } catch (error) {
    showAnswer(false, "no answer", String(error), null, "");
  } finally {
    send.disabled = false;
  }
});

input.addEventListener("input", showCommand);
showCommand();
