"use strict";
// Which knob's charts are shown.
{
  const knob = document.getElementById("knob");
  const show = () => {
    for (const charts of document.querySelectorAll("[data-knob]")) charts.hidden = charts.dataset.knob !== knob.value;
  };
  knob?.addEventListener("change", show);
  if (knob) show();
}
