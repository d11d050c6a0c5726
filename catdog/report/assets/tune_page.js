"use strict";
// Which setting's charts are shown.
{
  const setting = document.getElementById("setting");
  const show = () => {
    for (const charts of document.querySelectorAll("[data-setting]")) charts.hidden = charts.dataset.setting !== setting.value;
  };
  setting?.addEventListener("change", show);
  if (setting) show();
}
