// What administrators do, each after a question.

import * as api from "./api.js";
import { byId, dialog, guarded, h, notice } from "./dom.js";

const TIMES = { "15 minutes": 900, "1 hour": 3600, "8 hours": 28_800, "1 day": 86_400, "1 week": 604_800 };

const reason = () => h("div", { class: "field" }, h("label", { for: "reason" }, "Reason"), h("input", { id: "reason", maxlength: "200", autocomplete: "off" }), h("small", {}, "They see it, and the audit trail has it."));

// `run` gets the dialog's fields by their ids.
function ask(title, content, label, run) {
  const act = guarded(async () => {
    await run((id) => byId(id).value);
    close();
  });
  const { form, close } = dialog(title, content, [
    h("button", { type: "button", onclick: () => close(), autofocus: true }, "Cancel"),
    h("button", { type: "submit", class: "danger", id: "do-it" }, label),
  ]);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

function askEnd({ laptop, generation }) {
  ask(`End the registration of ${laptop}?`, [h("p", {}, "Its devroute up ends with your reason. It can be started again at once."), reason()], "End", async (value) => {
    await api.end(laptop, generation, value("reason"));
    notice(`the registration of ${laptop} is ended`);
  });
}

function askBlock(subject) {
  const times = h("div", { class: "field" }, h("label", { for: "seconds" }, "For"), h("select", { id: "seconds" }, Object.entries(TIMES).map(([text, seconds]) => h("option", { value: seconds, selected: seconds === 3600 }, text))));
  ask(`Block ${subject}?`, [h("p", {}, "Their laptops and pages end, and their token is refused for this time."), times, reason()], "Block", async (value) => {
    await api.block(subject, Number(value("seconds")), value("reason"));
    notice(`${subject} is blocked`);
  });
}

export const unblock = guarded(async (subject) => {
  await api.unblock(subject);
  notice(`${subject} is no longer blocked`);
});

export function adminTools(laptop, you) {
  return [
    h("button", { type: "button", "data-do": "end", "aria-label": `End the registration of ${laptop.laptop}`, onclick: () => askEnd(laptop) }, "End"),
    laptop.subject === you ? null : h("button", { type: "button", "data-do": "block", "aria-label": `Block ${laptop.subject}`, onclick: () => askBlock(laptop.subject) }, "Block"),
  ];
}
