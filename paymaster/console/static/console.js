"use strict";
// Shows pages anew while they are looked at. Without this script they are as complete, and reload by hand.
const EVERY_MS = 10_000;
const busy = () => {
  const at = document.activeElement;
  return document.hidden || !getSelection().isCollapsed || (at && at.closest("main form, main summary"));
};

async function renew() {
  if (busy()) return;
  const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
  if (!answer.ok || busy()) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const [old, now] = [document.querySelector("main"), page.querySelector("main")];
  const focused = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
  old.replaceChildren(...now.childNodes);
  if (focused) old.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

if (document.body.hasAttribute("data-live")) {
  let timer = null;
  const button = document.createElement("button");
  button.className = "quiet";
  const turn = () => {
    timer = timer ? clearInterval(timer) : setInterval(() => renew().catch(() => {}), EVERY_MS);
    button.textContent = timer ? "Stop updates" : "Update by itself";
  };
  button.addEventListener("click", turn);
  document.querySelector(".bar-top").append(button);
  turn();
}
