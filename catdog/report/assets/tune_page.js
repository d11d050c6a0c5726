"use strict";
// Shows the charts of the selected setting, and the curves of the trial that was clicked.
{
  const setting = document.getElementById("setting");
  const show = () => {
    for (const charts of document.querySelectorAll("[data-setting]")) charts.hidden = charts.dataset.setting !== setting.value;
  };
  setting?.addEventListener("change", show);
  if (setting) show();

  const select = (mark) => {
    if (!mark) return;
    const parts = [...document.querySelectorAll("[data-curves]")];
    const found = parts.find((part) => part.dataset.curves === mark.dataset.trial);
    for (const part of parts) part.hidden = part !== found;
    const missing = document.getElementById("no-curves");
    if (missing) missing.hidden = Boolean(found);
    (found ?? missing)?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  document.addEventListener("click", (event) => select(event.target.closest("[data-trial]")));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("svg.chart")) select(event.target.querySelector(".here[data-trial]"));
  });
}
